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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from whydiff.numbers.metrics import is_integer, values
from whydiff.records import Alignment, Event, Payload, Trace

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


def axes_between(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    sizes: Iterable[tuple[int, int]] | None = None,
    *,
    computed: bool = False,
) -> tuple[Axis, ...]:
    """What two runs have different sizes of: those that differ where paired calls read from outside.

    State is left out (a weight of another shape is another model). Where the smaller part begins is not known
    from shapes, so every start is offered and the values settle it.

    Args:
        reference, candidate, alignment: the runs.
        sizes: only these pairs of sizes; any if omitted.
        computed: also where paired calls read what unpaired ones made.
    """
    found: dict[tuple[int, int], tuple[int, str]] = {}
    seen = (_looks(reference), _looks(candidate))
    wanted = None if sizes is None else set(sizes)
    for _, event, other in entering_reads(reference, candidate, alignment):
        if not computed and not event.producer == other.producer == -1:
            continue
        ours, theirs = event.spec.shape, other.spec.shape
        if len(ours) == len(theirs):
            for dimension, pair in enumerate(zip(ours, theirs, strict=True)):
                if pair[0] != pair[1] and min(pair) > 0 and (wanted is None or pair in wanted):
                    name = _name(seen[0].get(event.storage, ()), seen[1].get(other.storage, ()), pair, dimension)
                    found.setdefault(pair, (len(ours), name))
    return tuple(Axis(r, c, tuple(range(abs(c - r) + 1)), found[r, c][1]) for r, c in _coarsest(found))


def _looks(trace: Trace) -> dict[int, set[Shape]]:
    """Every shape in which a storage from outside was looked at, views included."""
    looks: dict[int, set[Shape]] = {}
    for leaf in trace.leaves:
        looks.setdefault(leaf.storage, set()).add(leaf.spec.shape)
    for call in trace.calls:
        for event in (*call.reads, *call.writes):
            if event.producer == -1:
                looks.setdefault(event.storage, set()).add(event.spec.shape)
    return looks


def _name(ours: Iterable[Shape], theirs: Iterable[Shape], sizes: tuple[int, int], dimension: int) -> str:
    """Batch if the sizes stand in dimension 0 of the look with the most dimensions, else length."""
    best = (0, dimension)
    for r, c in itertools.product(ours, theirs):
        if len(r) == len(c) > best[0]:
            differing = [n for n, pair in enumerate(zip(r, c, strict=True)) if pair[0] != pair[1]]
            if len(differing) == 1 and (r[differing[0]], c[differing[0]]) == sizes:
                best = (len(r), differing[0])
    return "length" if best[1] else "batch"


def output_sizes(reference: Trace, candidate: Trace, alignment: Alignment) -> set[tuple[int, int]]:
    """Pairs of sizes in which returned tensors of equally many axes differ."""
    found = set()
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        if ours.kind == "return":
            by_slot = {event.site.slot: event.spec.shape for event in theirs.reads}
            for event in ours.reads:
                other = by_slot.get(event.site.slot, ())
                if len(other) == len(event.spec.shape):
                    found |= {sizes for sizes in zip(event.spec.shape, other, strict=True) if sizes[0] != sizes[1]}
    return found


def entering_reads(
    reference: Trace, candidate: Trace, alignment: Alignment
) -> Iterator[tuple[tuple[int, int], Event, Event]]:
    """Paired reads of tensors that no paired call made, parameters and buffers left out; with the reading calls."""
    made = {pair.reference for pair in alignment.pairs}, {pair.candidate for pair in alignment.pairs}
    roles = ("parameter", "buffer", "non_persistent_buffer")
    state = [{leaf.storage for leaf in t.leaves if leaf.role in roles} for t in (reference, candidate)]
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        for event, other in zip(ours.reads, theirs.reads, strict=False):
            entering = event.producer not in made[0] and other.producer not in made[1]
            entering = entering and event.storage >= 0 <= other.storage and ours.kind != "return"
            if entering and event.storage not in state[0] and other.storage not in state[1]:
                yield (ours.index, theirs.index), event, other


def _coarsest(sizes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Without those that are a multiple of another one (a merged dimension of the same axis)."""
    ordered = sorted(sizes)
    return [
        (r, c)
        for r, c in ordered
        if not any((x, y) != (r, c) and r % x == 0 and r // x > 1 and c == y * (r // x) for x, y in ordered)
    ]


def same_but_for_sizes(reference: Any, candidate: Any, axes: Sequence[Axis]) -> bool:
    """Whether two argument templates are equal, except for whole numbers that grow in step with an axis."""
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


def narrow(
    axes: Sequence[Axis], read: Iterable[tuple[Value, Value]], same: Callable[[Value, Value], bool]
) -> tuple[Axis, ...]:
    """Axes with the one start at which most of the tensors that enter both runs agree.

    Args:
        axes: with all the starts that are possible.
        read: (reference's, candidate's) tensors from outside, of differing shapes.
        same: whether two tensors of one shape agree bit for bit.

    Returns:
        The axes with the first combination of starts at which most agree; with their first starts if none
        does (the inputs then really differ).
    """
    pairs = list(read)
    best: tuple[int, tuple[Axis, ...]] = (0, tuple(replace(axis, starts=axis.starts[:1]) for axis in axes))
    for starts in itertools.islice(itertools.product(*(axis.starts for axis in axes)), 1 << 12):
        fixed = tuple(replace(axis, starts=(start,)) for axis, start in zip(axes, starts, strict=True))
        agreeing = sum(_agrees_somewhere(fixed, *pair, same) for pair in pairs)
        if agreeing == len(pairs):
            return fixed
        if agreeing > best[0]:
            best = agreeing, fixed
    return best[1]


def all_agree(
    axes: tuple[Axis, ...], read: Iterable[tuple[Value, Value]], same: Callable[[Value, Value], bool]
) -> bool:
    """Whether every larger tensor holds the smaller one bit for bit, at the axes' starts."""
    return all(_agrees_somewhere(axes, *pair, same) for pair in read)


def _agrees_somewhere(
    axes: tuple[Axis, ...], reference: Value, candidate: Value, same: Callable[[Value, Value], bool]
) -> bool:
    for one in options(tuple(reference.shape), tuple(candidate.shape), axes, True):
        small, large = (reference, candidate) if one.whole == "candidate" else (candidate, reference)
        if same(small, one.part(large)):
            return True
    return False


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
