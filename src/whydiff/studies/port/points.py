"""Points at which two programs must agree: operands and results of what reads a matched weight; how they agree."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Progress, Role, for_framework, plays
from whydiff.errors import WhydiffError
from whydiff.explain.scale import Difference, Scale
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer, measure
from whydiff.numbers.rearrangement import Rearrangement
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.replay import replay
from whydiff.records import Call, Comparison, Count, Event, Lift, Payload, Trace
from whydiff.studies.port.weights import Weight, distance_of, layout_of, numbers, rearranged

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Point:
    """A value that both programs compute: the operand (``into``) or the result (``out of``) of a layer.

    Attributes:
        weight: whose layer.
        side: ``"into"``, ``"out of"`` or ``"returned"`` (what the programs gave back).
        events: reference's and candidate's.
        calls: the calls that read the weight.
    """

    weight: Weight
    side: str
    events: tuple[Event, Event]
    calls: tuple[Call, Call]


_MOST = 12
"""Departing points that are tried one by one (a size, not a tolerance)."""

Differences = list[Difference | None]
NOT_COMPARED = Comparison("not_compared", "no layout fits")


@dataclass
class Judged:
    """What is known of a point: layout, scaling, plain comparison; ``near``: earlier points' float64 values."""

    point: Point
    layout: Rearrangement | None = None
    scale: Scale | None = None
    comparison: Comparison = NOT_COMPARED
    near: tuple[Array, ...] = ()
    result: tuple[Array, Array] | None = None
    reference: Any = None
    rerun: Callable[[Executor], float | None] | None = None


def find_points(
    reference: Trace, candidate: Trace, weights: Sequence[Weight]
) -> tuple[tuple[Point, ...], tuple[Count, ...]]:
    """Operands and results of the calls that read a matched weight, in the reference's order."""
    readers = [_readers(trace) for trace in (reference, candidate)]
    points: list[Point] = []
    unread = []
    for layer in _layers(weights, readers):
        counts = {len(readers[0].get(w.reference, [])) for w in layer} | {
            len(readers[1].get(w.candidate, [])) for w in layer
        }
        if len(counts) != 1 or 0 in counts:
            unread += [w.reference for w in layer]
        for time in range(min(counts)):
            mine, other = (_calls(readers[side], layer, side, time) for side in (0, 1))
            points += _points(layer, mine, other)
    points += _returned(reference, candidate)
    points.sort(key=lambda p: (p.calls[0].index, p.side == "out of"))
    reason = "not read, or not read equally often on both sides"
    return tuple(points), (
        (Count(what="weights", reason=reason, count=len(unread), examples=tuple(unread[:3])),) if unread else ()
    )


def _returned(reference: Trace, candidate: Trace) -> Iterator[Point]:
    """What both programs gave back, in order."""
    ends = [[call for call in trace.calls if call.kind == "return"] for trace in (reference, candidate)]
    if not all(ends):
        return
    mine, other = ends[0][-1], ends[1][-1]
    for ours, theirs in zip(mine.reads, other.reads, strict=False):
        if ours.spec.numel == theirs.spec.numel and min(ours.storage, theirs.storage) >= 0 and _floats(ours):
            yield Point(Weight(ours.site.slot, theirs.site.slot, ""), "returned", (ours, theirs), (mine, other))


Readers = dict[str, list[tuple[Call, int]]]


def _layers(weights: Sequence[Weight], readers: Sequence[Readers]) -> list[list[Weight]]:
    """Weights that one call of either side reads together (a kernel and its bias): one layer."""
    groups = [[weight] for weight in weights]
    for side in (0, 1):
        by_call: dict[int, list[Weight]] = {}
        for weight in weights:
            for call, _ in readers[side].get((weight.reference, weight.candidate)[side], []):
                by_call.setdefault(call.index, []).append(weight)
        for together in by_call.values():
            touched = [group for group in groups if any(weight in group for weight in together)]
            if len(touched) > 1:
                groups = [group for group in groups if group not in touched]
                groups.append([weight for group in touched for weight in group])
    return groups


def _calls(readers: Readers, layer: Sequence[Weight], side: int, time: int) -> list[tuple[Call, int, Weight]]:
    """What reads a layer's weights for the n-th time, in execution order."""
    found = [(*readers[(w.reference, w.candidate)[side]][time], w) for w in layer]
    return sorted(found, key=lambda item: item[0].index)


def _points(
    layer: Sequence[Weight], mine: Sequence[tuple[Call, int, Weight]], other: Sequence[tuple[Call, int, Weight]]
) -> Iterator[Point]:
    """The operand of a layer's product, and the result of its last call.

    A layer without a product (a norm's gain) may be fused with what comes before it on one side only, so that
    its operands are no counterparts.
    """
    kernel = next((w for w in layer if w.axes > 1), None)
    if kernel is not None:
        (call_r, at_r), (call_c, at_c) = ((c, at) for some in (mine, other) for c, at, w in some if w is kernel)
        operands = [
            {e.spec.numel: e for i, e in enumerate(call.reads) if i != at and e.producer >= 0 and _floats(e)}
            for call, at in ((call_r, at_r), (call_c, at_c))
        ]
        for size in operands[0].keys() & operands[1].keys():
            yield Point(kernel, "into", (operands[0][size], operands[1][size]), (call_r, call_c))
    last = mine[-1][0], other[-1][0]
    outs = last[0].writes[0], last[1].writes[0]
    if outs[0].spec.numel == outs[1].spec.numel:
        yield Point(kernel or layer[0], "out of", outs, last)


def _readers(trace: Trace) -> Readers:
    """Weight → calls that compute with it, and which operand it is; what only passes it on is looked through."""
    names: dict[int, str] = {}
    for leaf in trace.leaves:
        if leaf.is_state and leaf.storage >= 0:
            names.setdefault(leaf.storage, leaf.name)
    found: Readers = {}
    for call in trace.calls:
        if call.kind not in ("compute", "view"):
            continue
        for position, event in enumerate(call.reads):
            name = names.get(event.storage)
            if name is None:
                continue
            if call.kind == "view" or plays(trace.framework, call.site.op, Role.CARRIES):
                for written in call.writes:
                    names[written.storage] = name
            else:
                found.setdefault(name, []).append((call, position))
    return found


def _floats(event: Event) -> bool:
    return not is_integer(event.spec.dtype) and bool(event.spec.dtype)


def judge(reference: Trace, candidate: Trace, points: Sequence[Point], progress: Progress | None) -> list[Judged]:
    """Replay in float32 and float64, resynchronised at every point."""
    judged = [Judged(point) for point in points]
    differences: dict[str, Differences] = {}
    excluded: frozenset[int] = frozenset()
    for dtype in ("float64", "float32"):
        if progress is not None:
            progress(f"replay both models in {dtype}", 0, 1)
        lift = Lift(dtype)
        mine = values_of(for_framework(reference.framework).executor(reference, lift=lift), points)

        def replay(left: frozenset[int], lift: Lift = lift, mine: Mapping[int, Payload] = mine) -> Differences:
            return _walk(for_framework(candidate.framework).executor(candidate, lift=lift), mine, judged, left)

        if dtype == "float64":
            _lay_out(replay, judged)
            excluded = _no_counterparts(replay)
            for number, one in enumerate(judged):
                one.reference = reference
                one.rerun = functools.partial(_once, judged, mine, number, excluded)
        differences[dtype] = replay(excluded)
        if dtype == "float64":
            _remember(judged, excluded)
    for number, (one, single, double) in enumerate(
        zip(judged, differences["float32"], differences["float64"], strict=True)
    ):
        if number in excluded:
            one.layout, one.comparison = None, Comparison("not_compared", "the values are no counterparts")
        elif single is not None and double is not None:
            one.scale = Scale(single, double, str(one.point.events[0].site))
    plain = [for_framework(t.framework).executor(t) for t in (reference, candidate)]
    ours, theirs = values_of(plain[0], points), values_of(plain[1], points, 1)
    for n, one in enumerate(judged):
        if one.layout is not None and n in ours and n in theirs:
            moved = rearranged(theirs[n].bits, one.layout.inverse, ours[n].bits.shape)
            one.comparison = compare_payloads(ours[n], replace(theirs[n], bits=moved))
    return judged


def values_of(executor: Executor, points: Sequence[Point], side: int = 0) -> dict[int, Payload]:
    """Every point's value in a replay that nothing is changed in."""
    wanted: dict[int, list[int]] = {}
    for number, point in enumerate(points):
        wanted.setdefault(point.calls[side].index, []).append(number)
    found: dict[int, Payload] = {}

    def operands(executor: Executor, call: Call) -> None:
        for number in wanted.get(call.index, ()):
            if points[number].side != "out of":
                found[number] = executor.payload(executor.read(points[number].events[side]))

    def results(executor: Executor, call: Call) -> None:
        for number in wanted.get(call.index, ()):
            if points[number].side == "out of":
                found[number] = executor.payload(executor.written(points[number].events[side]))

    replay(executor, before=operands, watch=results)
    return found


def _lay_out(replay: Callable[[frozenset[int]], Differences], judged: Sequence[Judged]) -> None:
    """Find every point's layout, by value, in a replay in which it is met for the first time."""
    replay(frozenset())
    for one in judged:
        if one.result is None:
            one.layout = None


def _no_counterparts(replay: Callable[[frozenset[int]], Differences]) -> frozenset[int]:
    """Points that are not the same value on both sides (a bias added before or after a residual).

    Giving the candidate the reference's value there makes it wrong further on; leaving it alone does not. At a
    mistake it is the other way round.
    """
    excluded: frozenset[int] = frozenset()
    judged: set[int] = set()
    found = replay(excluded)
    while len(judged) < _MOST:
        first = next((n for n in sorted(departing(found)) if n not in judged and n not in excluded), None)
        if first is None:
            break
        judged.add(first)
        without = replay(excluded | {first})
        later = ({n for n in departing(some) if n > first} for some in (found, without))
        given, left = later
        if left < given:
            excluded, found = excluded | {first}, without
    return excluded


def departing(found: Differences) -> set[int]:
    """Points whose float64 difference is larger than rounding the program's own constants to float32 makes."""
    return {n for n, d in enumerate(found) if d is not None and departs(d)}


def departs(double: Difference) -> bool:
    """Whether a float64 difference is larger than what constants kept in float32 make."""
    return bool(double.special) or double.mean > UNIT_ROUNDOFF["float32"] * double.magnitude


def _remember(judged: Sequence[Judged], excluded: frozenset[int]) -> None:
    """For every point, the values of the points before it."""
    seen: list[Array] = []
    for number, one in enumerate(judged):
        one.near = tuple(seen[-6:])
        if number not in excluded and one.result is not None:
            seen.append(one.result[0])


def _once(
    judged: Sequence[Judged], mine: Mapping[int, Payload], number: int, excluded: frozenset[int], executor: Executor
) -> float | None:
    """One point's difference in another replay of the candidate, resynchronised at all points."""
    results = [one.result for one in judged]
    try:
        found = _walk(executor, mine, judged, excluded)[number]
    finally:
        for one, result in zip(judged, results, strict=True):
            one.result = result
    return None if found is None else found.mean


def _walk(
    executor: Executor, mine: Mapping[int, Payload], judged: Sequence[Judged], excluded: frozenset[int]
) -> Differences:
    """The candidate's replay; at every point it is compared with the reference and given its value."""
    wanted: dict[int, list[int]] = {}
    for number, one in enumerate(judged):
        wanted.setdefault(one.point.calls[1].index, []).append(number)
    found: Differences = [None] * len(judged)

    def meet(number: int) -> None:
        one, event = judged[number], judged[number].point.events[1]
        try:
            theirs = executor.payload(executor.read(event))
        except WhydiffError:
            return
        ours = mine[number]
        if one.layout is None and one.result is None:
            one.layout = layout_of(numbers(ours), numbers(theirs), distance_of)
        if one.layout is None:
            return
        moved = rearranged(theirs.bits, one.layout.inverse, ours.bits.shape)
        s = measure(ours, replace(theirs, bits=moved))
        special = s.inf_mismatch + s.nan_reference + s.nan_candidate - 2 * s.nan_both
        finite = max(s.finite, 1)
        found[number] = Difference(s.sum_abs / finite, math.sqrt(s.sum_reference_square / finite), special)
        if theirs.dtype == "float64":
            one.result = numbers(ours), numbers(replace(theirs, bits=moved))
        if number not in excluded:
            given = rearranged(ours.bits, one.layout, theirs.bits.shape)
            executor.overwrite(event, executor.adopt_foreign(Payload(given, ours.dtype)))

    def operands(_: Executor, call: Call) -> None:
        for number in wanted.get(call.index, ()):
            if judged[number].point.side != "out of":
                meet(number)

    def results(_: Executor, call: Call) -> None:
        for number in wanted.get(call.index, ()):
            if judged[number].point.side == "out of":
                meet(number)

    replay(executor, before=operands, watch=results)
    return found
