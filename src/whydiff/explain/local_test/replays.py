"""Operations made from recorded calls: one call, or the calls of a region, executed by a lifted replay."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import ReplayError
from whydiff.explain.local_test.exact import Reads, exact_values
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers.metrics import real_part_dtype
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Event, Payload

Seen = Callable[[Call, Sequence[Array], Sequence[Array]], None]
Given = Mapping[int, Sequence[Array]]
Layout = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset in elements."""

_SPARSE = 8
"""Places that lie further apart than this, on average, are looked up by sorting instead of in a table."""


def operation(call: Call, reads: Sequence[Payload], slot: int, lifted: Executor) -> Operation:
    """One recorded call on given inputs.

    Args:
        call: of kind ``compute``.
        reads: what it read, in order.
        slot: which written event is judged.
        lifted: executor of the call's trace, lifted to float64.
    """
    spec = call.writes[slot].spec

    def run(arrays: Sequence[Array], arguments: Any) -> Array:
        return _apply(replace(call, arguments=arguments), arrays, lifted)[slot]

    adapter = for_framework(lifted.framework)
    paired = any(is_complex(event) for event in (*call.reads, *call.writes))  # no formula here is written for pairs
    return Operation(
        name=call.site.op,
        reads=Reads(reads),
        dtypes=tuple(real_part_dtype(p.dtype) for p in reads),
        arguments=call.arguments,
        shape=_layout(call.writes[slot])[0],
        dtype=real_part_dtype(spec.dtype),
        run=run,
        roles=frozenset() if paired else adapter.roles(call.site.op),
        at={} if paired else adapter.places(call.site.op),
    )


def is_complex(event: Event) -> bool:
    """Whether an event looks at complex numbers."""
    return real_part_dtype(event.spec.dtype) != event.spec.dtype


def _layout(event: Event) -> Layout:
    """(shape, strides, offset) of an event in real numbers."""
    spec = event.spec
    strides = spec.strides or _contiguous(spec.shape)
    if not is_complex(event):
        return spec.shape, strides, spec.offset
    return (*spec.shape, 2), (*(2 * stride for stride in strides), 1), 2 * spec.offset


def _apply(call: Call, arrays: Sequence[Array], lifted: Executor) -> list[Array]:
    """A call in float64 on arrays; what it returned, else what it changed.

    Raises:
        ReplayError: it cannot be lifted.
    """
    before = _not_lifted(lifted)
    given = [_as_numbers(a, event) for a, event in zip(arrays, call.reads, strict=True)]
    whole = [np.ascontiguousarray(a).reshape(a.shape) for a in given]  # a single number stays one: no axis is added
    tensors = [lifted.adopt_foreign(Payload(a, _name(a.dtype))) for a in whole]
    outputs = list(lifted.apply(call, tensors)) or [tensors[i] for i in call.mutates]
    if _not_lifted(lifted) > before:
        raise ReplayError("The op cannot be executed in float64.", where=str(call.site), actual=call.target)
    return [exact_values(lifted.payload(t)) for t in outputs]


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    """Asked of numpy itself it takes as long as a small op."""
    return dtype.name


def _as_numbers(array: Array, event: Event) -> Array:
    """What an event's values are given to an op as: pairs become complex numbers again."""
    if not is_complex(event):
        return array
    return np.asarray(np.ascontiguousarray(array, dtype=np.float64).view(np.complex128)[..., 0])


def _not_lifted(lifted: Executor) -> int:
    return sum(count.count for count in lifted.counts() if count.code == "not lifted")


class Region:
    """Several recorded calls as one operation: storages in float64, looks by strides.

    Args:
        calls: in execution order; nothing but them makes the values between its inputs and its result.
        result: the event whose value is judged.
        lifted: executor of the trace, lifted to float64.
    """

    def __init__(self, calls: Sequence[Call], result: Event, lifted: Executor) -> None:
        self.calls, self.result, self.lifted = calls, result, lifted
        made: set[int] = set()
        self._by_call: dict[int, list[Event]] = {}
        for call in calls:
            known = [e for e in call.reads if not e.overwritten and e.storage not in made]
            if known:
                self._by_call[call.index] = known
            made |= {event.storage for event in call.writes if event.storage >= 0}
        self.inputs = [event for events in self._by_call.values() for event in events]
        if result.storage not in made:
            self.inputs.append(result)

    def reads_by_call(self) -> dict[int, list[Event]]:
        """Call index → the region's inputs that it reads, to be copied just before it is executed."""
        return self._by_call

    def operation(self, reads: Sequence[Payload]) -> Operation:
        """The region on the values of ``inputs``."""
        stored = [real_part_dtype(e.spec.dtype) for call in self.calls for e in call.writes]
        stored = [dtype for dtype in stored if dtype in UNIT_ROUNDOFF]
        return Operation(
            "region" if self.calls else "value",
            Reads(reads),
            tuple(real_part_dtype(p.dtype) for p in reads),
            [[], {}],
            _layout(self.result)[0],
            real_part_dtype(self.result.spec.dtype),
            self._run,
            max(len(self.calls), 2),
            max(stored, key=lambda name: UNIT_ROUNDOFF[name], default=""),
        )

    def _run(self, arrays: Sequence[Array], _: Any) -> Array:
        return self.run(arrays)

    def run(self, arrays: Sequence[Array], *, seen: Seen | None = None, given: Given | None = None) -> Array:
        """The region on the values of ``inputs``.

        Args:
            arrays: these, in float64.
            seen: told of every call with what it reads and what it gives.
            given: call index → what it writes instead of what it computes, each in the order of its elements.
        """
        memory: dict[int, Array] = {}
        for event, values_in in zip(self.inputs, arrays, strict=True):
            _place(memory, event, values_in)
        with self.lifted.running() if self.calls else nullcontext():
            for call in self.calls:
                reads = [
                    np.zeros(_layout(event)[0])
                    if event.overwritten and event.storage not in memory
                    else _look(memory, event)
                    for event in call.reads
                ]
                outputs = (given or {}).get(call.index) or _apply(call, reads, self.lifted)
                if seen is not None:
                    seen(call, reads, outputs)
                for event, output in zip(call.writes, outputs, strict=False):
                    if event.storage >= 0 and not event.is_look:
                        _place(memory, event, output)
        return _look(memory, self.result)


def positions(written: Sequence[Event], result: Event) -> tuple[int, Array] | None:
    """Which written event a look is a rearrangement of, and where its elements are in the look.

    Returns:
        (slot, flat positions in the look, in the order of the written tensor), or None if the look covers
        other elements (a slice, a broadcast).
    """
    for slot, event in enumerate(written if not is_complex(result) else ()):
        if event.storage != result.storage or event.spec.dtype != result.spec.dtype:
            continue
        if event.spec.numel != result.spec.numel:
            continue
        found = _rearranged(_layout(event), _layout(result))
        if found is not None:
            return slot, found
    return None


@functools.lru_cache(maxsize=8)  # asked for on both sides, before and after the judgement
def _rearranged(ours: Layout, theirs: Layout) -> Array | None:
    """Where the elements of one look stand in the other, both flat; None if they are not the same."""
    whole = ours == theirs and _distinct(ours)
    found = np.arange(math.prod(ours[0])) if whole else _found_in(_offsets(*ours), _offsets(*theirs))
    if found is not None:
        found.flags.writeable = False
    return found


def _distinct(layout: Layout) -> bool:
    """Whether it is easy to see that no element of a look is another one of it."""
    reach = 0  # how far the dimensions of smaller steps go
    for stride, size in sorted((stride, size) for size, stride in zip(*layout[:2], strict=True) if size > 1):
        if stride <= reach:
            return False
        reach += (size - 1) * stride
    return True


def _found_in(ours: Array, theirs: Array) -> Array | None:
    """Where each of our places is among theirs, as many; None if they are not the same, or ours are not all distinct."""
    if not ours.size:
        return ours
    low, high = int(ours.min()), int(ours.max())
    if int(theirs.min()) != low or int(theirs.max()) != high:
        return None
    if high - low >= _SPARSE * ours.size:
        order = np.argsort(theirs, kind="stable")
        found = order[np.searchsorted(theirs[order], ours).clip(max=theirs.size - 1)]
        return found if np.array_equal(theirs[found], ours) and np.unique(ours).size == ours.size else None
    at = np.full(high - low + 1, -1, dtype=np.int64)
    at[theirs[::-1] - low] = np.arange(theirs.size)[::-1]  # the first of equals
    found = at[ours - low]
    distinct = np.zeros(at.size, dtype=bool)
    distinct[ours - low] = True
    return found if (found >= 0).all() and int(distinct.sum()) == ours.size else None


def _offsets(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    places = np.full(shape, offset, dtype=np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        places += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return places.reshape(-1)


def _place(memory: dict[int, Array], event: Event, content: Array) -> None:
    """Write a value into its storage, as its layout says.

    Raises:
        ReplayError: the op gave another shape than was recorded (another kernel has other results).
    """
    shape, strides, offset = _layout(event)
    if content.size != math.prod(shape):
        raise ReplayError(
            "In float64 the op gives another shape.",
            where=str(event.site),
            actual=str(content.shape),
            expected=str(shape),
        )
    need = _end(shape, strides, offset) if content.size else 0
    held = memory.get(event.storage)
    if held is None or held.size < need:
        grown = np.zeros(need, dtype=content.dtype)
        if held is not None:
            grown[: held.size] = held
        memory[event.storage] = held = grown
    if content.size:
        _strided(held, shape, strides, offset)[...] = content.reshape(shape)


def _look(memory: dict[int, Array], event: Event) -> Array:
    """What an event looks at, copied.

    Raises:
        ReplayError: nothing in the region made it, or it looks past what is known.
    """
    shape, strides, offset = _layout(event)
    held = memory.get(event.storage)
    if held is None or (event.spec.numel and held.size < _end(shape, strides, offset)):
        raise ReplayError("A value inside the region is not known.", where=str(event.site))
    return _strided(held, shape, strides, offset).copy()


def _strided(held: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    width = held.itemsize
    return np.ndarray(shape, held.dtype, held, offset * width if 0 not in shape else 0, [n * width for n in strides])


@functools.lru_cache(maxsize=4096)
def _end(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> int:
    """One past the last real number of its storage that a layout looks at."""
    return offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
