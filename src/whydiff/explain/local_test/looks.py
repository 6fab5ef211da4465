"""Looks at storages that are held in real numbers: where an event's values stand in memory, worked out once per event."""

from __future__ import annotations

import functools
import math

import numpy as np

from whydiff.errors import ReplayError
from whydiff.explain.local_test.operation import Array
from whydiff.numbers.metrics import real_part_dtype
from whydiff.records import Event

Layout = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset in elements."""


class Look:
    """What an event shows of its storage.

    Args:
        event: it.

    Attributes:
        shape: in real numbers.
        size: how many these are.
    """

    __slots__ = ("_end", "_layout", "_plain", "event", "shape", "size", "storage")

    def __init__(self, event: Event) -> None:
        self.event, self.storage, self._layout = event, event.storage, layout_of(event)
        self.shape, strides, offset = self._layout
        self.size = math.prod(self.shape)
        self._end = _end(*self._layout) if self.size else 0
        self._plain = not offset and strides == contiguous(self.shape)

    def place(self, memory: dict[int, Array], content: Array) -> None:
        """Write a value into its storage.

        Args:
            memory: storage → its numbers, flat.
            content: as many as the event shows, in the order of its elements.

        Raises:
            ReplayError: the op gave another shape than was recorded (another kernel has other results).
        """
        if content.size != self.size:
            raise ReplayError(
                "In float64 the op gives another shape.",
                where=str(self.event.site),
                actual=str(content.shape),
                expected=str(self.shape),
            )
        held = memory.get(self.storage)
        if held is None or held.size < self._end:
            if self._plain:  # nothing that is held is left, and nothing lies beyond
                memory[self.storage] = np.array(content, order="C").reshape(-1)
                return
            grown = np.zeros(self._end, dtype=content.dtype)
            if held is not None:
                grown[: held.size] = held
            memory[self.storage] = held = grown
        if self.size:
            strided(held, *self._layout)[...] = content.reshape(self.shape)

    def of(self, memory: dict[int, Array]) -> Array:
        """What the event looks at, copied.

        Raises:
            ReplayError: nothing made it, or it looks past what is known.
        """
        held = memory.get(self.storage)
        if held is None or held.size < self._end:
            raise ReplayError("A value inside the region is not known.", where=str(self.event.site))
        if self._plain:
            return held[: self.size].reshape(self.shape).copy()
        return strided(held, *self._layout).copy()


def is_complex(event: Event) -> bool:
    """Whether an event looks at complex numbers."""
    return real_part_dtype(event.spec.dtype) != event.spec.dtype


def layout_of(event: Event) -> Layout:
    """(shape, strides, offset) of an event in real numbers."""
    spec = event.spec
    strides = spec.strides or contiguous(spec.shape)
    if not is_complex(event):
        return spec.shape, strides, spec.offset
    return (*spec.shape, 2), (*(2 * stride for stride in strides), 1), 2 * spec.offset


def strided(held: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    """A layout's look at flat numbers; it shares their memory."""
    width = held.itemsize
    return np.ndarray(shape, held.dtype, held, offset * width if 0 not in shape else 0, [n * width for n in strides])


@functools.lru_cache(maxsize=4096)
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in row-major order."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _end(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> int:
    """One past the last real number of its storage that a layout looks at."""
    return offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def identical(one: Array, other: Array) -> bool:
    """Whether two arrays are alike to the last bit."""
    return bool(one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes())


__all__ = ["Layout", "Look", "contiguous", "identical", "is_complex", "layout_of", "strided"]
