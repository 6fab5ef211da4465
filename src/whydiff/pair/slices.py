"""Slice maps: which part of a tensor of the batched (longer, padded) run is the single run's counterpart.

Derived from evidence, never from names. A run was made at two sizes n < m of an *axis* (the batch, the
length). A dimension that is c there and r here follows the line ``dim = a + b * size`` with
b = (c - r) / (m - n) and a = r - b * n, which a third run confirms or refutes. Then

- b = 1, a = 0: the dimension is the axis (batch; tokens);
- b > 1: the axis is merged with others of b positions in total (batch × heads, batch × sequence). It can lie
  outside, inside or between them, so the dimension is seen as (outer, axis, inner) with outer * inner = b;
- a ≠ 0: the axis has a / b positions more than the run was asked for (a class token, a cache), or, if b does
  not divide a, it is a window at the beginning or the end of the dimension.

Several maps may fit. The values settle it: the first whose part equals the reference bit for bit, else the
closest; `Settled` says how many fitted and which rule chose. A shape that no line explains has no map.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from whydiff.numbers.metrics import is_integer, values
from whydiff.records import Payload

Value = Any
Which = Literal["reference", "candidate"]
Shape = tuple[int, ...]

MOST_MAPS = 64
"""Most maps of one tensor that are tried by value; further ones are dropped (a size, not a tolerance)."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What the two runs have different sizes of.

    Attributes:
        reference, candidate: its size in each run; they differ.
        starts: where the smaller run's part may begin in the larger one's axis (``(0,)``: row 0).
        name: ``"batch"`` or ``"length"``: as the caller says, else by convention: dimension 0 of what is read
            from outside is the batch, any other a length.
    """

    reference: int
    candidate: int
    starts: tuple[int, ...] = (0,)
    name: str = ""

    @property
    def small(self) -> int:
        """The smaller size."""
        return min(self.reference, self.candidate)

    @property
    def large(self) -> int:
        """The larger size."""
        return max(self.reference, self.candidate)

    @property
    def whole(self) -> Which:
        """The side whose tensors are larger."""
        return "candidate" if self.candidate > self.reference else "reference"

    def turned(self) -> Axis:
        """The same axis with the runs in each other's place."""
        return replace(self, reference=self.candidate, candidate=self.reference)


@dataclass(frozen=True, slots=True)
class Window:
    """One dimension seen as (outer, axis, inner); the part is ``axis[start : start + count]``."""

    outer: int
    axis: int
    inner: int
    start: int
    count: int


@dataclass(frozen=True, slots=True)
class SliceMap:
    """Which part of the larger tensor is the counterpart of the smaller one.

    Attributes:
        small, large: shapes.
        windows: per dimension; None where the sizes agree.
        whole: the side that has the larger tensor.
    """

    small: Shape
    large: Shape
    windows: tuple[Window | None, ...]
    whole: Which = "candidate"

    def part(self, value: Value) -> Value:
        """The counterpart inside a larger tensor (numpy, torch or JAX): shape ``small``."""
        return value.reshape(self._split(False))[self._index()].reshape(self.small)

    def put(self, value: Value, part: Value, write: Callable[[Value, Any, Value], Value]) -> Value:
        """A copy of the larger tensor in which the counterpart is ``part``; ``write`` is its executor's `put`."""
        written = write(value.reshape(self._split(False)), self._index(), part.reshape(self._split(True)))
        return written.reshape(self.large)

    @property
    def left_out(self) -> int:
        """Elements of the larger tensor that have no counterpart."""
        return math.prod(self.large) - math.prod(self.small)

    def __str__(self) -> str:
        looks = []
        for size, window in zip(self.large, self.windows, strict=True):
            if window is None:
                looks.append(":")
            else:
                stop = window.start + window.count
                where = f"{window.start}" if window.count == 1 else f"{window.start}:{stop}"
                merged = (window.outer, window.inner) != (1, 1)
                looks.append(f"{where} of {window.outer}×{window.axis}×{window.inner}" if merged else where)
                assert size == window.outer * window.axis * window.inner
        return f"[{', '.join(looks)}]"

    def _split(self, part: bool) -> Shape:
        sizes: list[int] = []
        for size, window in zip(self.small if part else self.large, self.windows, strict=True):
            if window is None:
                sizes.append(size)
            else:
                sizes += [window.outer, window.count if part else window.axis, window.inner]
        return tuple(sizes)

    def _index(self) -> tuple[slice, ...]:
        index: list[slice] = []
        for window in self.windows:
            if window is None:
                index.append(slice(None))
            else:
                index += [slice(None), slice(window.start, window.start + window.count), slice(None)]
        return tuple(index)


@functools.lru_cache(maxsize=1 << 14)
def options(reference: Shape, candidate: Shape, axes: tuple[Axis, ...], plain: bool = False) -> tuple[SliceMap, ...]:
    """Every slice map that fits two shapes, the plainest first; empty if none does.

    Args:
        reference: shape in the reference.
        candidate: shape of its counterpart; equal shapes need no map and have none.
        axes: what the runs have different sizes of.
        plain: no map in which an axis has further positions, where one without fits. For whole numbers, of which
            any stretch may agree by accident.
    """
    if len(reference) != len(candidate) or reference == candidate:
        return ()
    found: list[SliceMap] = []
    for whole in ("candidate", "reference"):
        growing = [axis for axis in axes if axis.whole == whole]
        small, large = (reference, candidate) if whole == "candidate" else (candidate, reference)
        per_dim = [_windows(s, c, growing, plain) if s != c else [None] for s, c in zip(small, large, strict=True)]
        if all(per_dim):
            chosen = itertools.islice(itertools.product(*per_dim), MOST_MAPS)
            found += [SliceMap(small, large, windows, whole) for windows in chosen]
    return tuple(found)


def _windows(small: int, large: int, axes: Sequence[Axis], plain: bool) -> list[Window | None]:
    found: list[Window] = []
    extended: list[Window] = []  # the axis with further positions: less plain
    for axis in axes:
        slope = _slope(small, large, axis)
        if slope is None:
            continue
        extra = small - slope * axis.small
        ends = (0, axis.large - axis.small)
        if extra % slope == 0 and axis.small + extra // slope > 0:
            more = extra // slope
            starts = axis.starts if more == 0 else tuple(dict.fromkeys((*axis.starts, *ends)))
            (extended if more else found).extend(
                Window(outer, axis.large + more, slope // outer, start, axis.small + more)
                for outer in _divisors(slope)
                for start in starts
            )
        elif small > 0:
            extended += [Window(1, large, 1, start, small) for start in dict.fromkeys((0, large - small))]
    return list(dict.fromkeys(found if plain and found else (*found, *extended)))


def _slope(small: int, large: int, axis: Axis) -> int | None:
    grown, steps = large - small, axis.large - axis.small
    return grown // steps if grown > 0 and steps > 0 and grown % steps == 0 else None


def _divisors(number: int) -> Iterator[int]:
    return (n for n in range(1, number + 1) if number % n == 0)


# --------------------------------------------------------------------------- settled by value


@dataclass(frozen=True, slots=True)
class Settled:
    """A chosen slice map.

    Attributes:
        map: the choice.
        fitted: how many maps fitted the shapes.
        how: ``"shape"`` (only one fitted), ``"equal"`` (its part has the reference's bits) or ``"closest"``.
        equal: whether the parts agree bit for bit.
    """

    map: SliceMap
    fitted: int
    how: Literal["shape", "equal", "closest"]
    equal: bool


def settle(
    maps: Sequence[SliceMap],
    small: Value,
    large: Value,
    same: Callable[[Value, Value], bool],
    distance: Callable[[Value, Value], float],
) -> Settled:
    """Choose among maps by value: the first part that is equal, else the one at the smallest distance.

    Args:
        maps: at least one, from `options`.
        small: the smaller tensor.
        large: the larger one, in which the part lies.
        same: whether two tensors of one shape agree bit for bit.
        distance: of two tensors of one shape; compared only among the maps.
    """
    parts = [one.part(large) for one in maps]
    equal = next((n for n, part in enumerate(parts) if same(small, part)), None)
    if equal is not None:
        return Settled(maps[equal], len(maps), "shape" if len(maps) == 1 else "equal", True)
    if len(maps) == 1:
        return Settled(maps[0], 1, "shape", False)
    best = min(range(len(maps)), key=lambda n: distance(small, parts[n]))
    return Settled(maps[best], len(maps), "closest", False)


def why_unmapped(reference: Shape, candidate: Shape) -> str:
    """Why two shapes have no slice map, in words."""
    if len(reference) != len(candidate):
        return "another number of dimensions"
    return "a dimension does not grow in step with the run's size"


_ONE = frozenset({type(None), str, float, bool})
"""Types of what is no size and holds none."""


def same_but_for_sizes(reference: Any, candidate: Any, axes: Sequence[Axis]) -> bool:
    """Whether two argument templates are equal, except for whole numbers that grow in step with an axis."""
    if type(reference) in _ONE:
        return bool(reference == candidate)
    if isinstance(reference, list) and isinstance(candidate, list):
        return len(reference) == len(candidate) and all(
            same_but_for_sizes(r, c, axes) for r, c in zip(reference, candidate, strict=True)
        )
    if isinstance(reference, Mapping) and isinstance(candidate, Mapping):
        return reference.keys() == candidate.keys() and all(
            same_but_for_sizes(reference[key], candidate[key], axes) for key in reference
        )
    if type(reference) is int and type(candidate) is int and reference != candidate:
        small, large = sorted((reference, candidate))
        return any(_slope(small, large, axis) is not None for axis in axes)
    return bool(reference == candidate)


def counterparts(reference: Payload, candidate: Payload, axes: tuple[Axis, ...]) -> tuple[Payload, Payload]:
    """Two host tensors, the larger one cut to its counterpart; unchanged if their shapes agree or none fits."""
    shapes = reference.bits.shape, candidate.bits.shape
    maps = options(*shapes, axes, is_integer(reference.dtype)) if axes else ()
    if not maps:
        return reference, candidate
    inside = maps[0].whole == "candidate"
    small, large = (reference, candidate) if inside else (candidate, reference)
    chosen = settle(maps, small.bits, large.bits, _same_bits, lambda a, b: _distance(a, b, small.dtype))
    part = replace(large, bits=chosen.map.part(large.bits))
    return (reference, part) if inside else (part, candidate)


def _same_bits(one: Value, other: Value) -> bool:
    return bool(one.dtype == other.dtype and one.tobytes() == other.tobytes())


def _distance(one: Value, other: Value, dtype: str) -> float:
    ours, theirs = values(one, dtype), values(other, dtype)
    if ours.dtype.kind not in "fc":
        return float((ours != theirs).mean())
    with np.errstate(invalid="ignore"):  # signalling NaNs in memory that nothing wrote
        difference = abs(ours.astype(complex) - theirs.astype(complex))
    return float(difference[difference == difference].sum())
