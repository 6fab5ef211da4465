"""How two programs agree at their points: both replayed in float32 and float64, resynchronised at every point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Progress, Role, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.scale import Difference, Scale
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.rearrangement import Rearrangement
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.replay import Watch, replay
from whydiff.records import Call, Comparison, Lift, Payload, Trace
from whydiff.studies.port.points import Point
from whydiff.studies.port.rewrites import Program
from whydiff.studies.port.weights import distance_of, layouts_of, match_inputs, numbers, rearranged

Array = np.ndarray[Any, Any]
_MOST = 12
"""Departing points that are tried one by one (a size, not a tolerance)."""
_LAYOUTS = 6
"""Layouts that are tried at a point whose shapes allow several."""

Differences = list[Difference | None]
NOT_COMPARED = Comparison("not_compared", "no layout fits")


@dataclass
class Judged:
    """What is known of a point.

    Attributes:
        point: which.
        layout: from the reference's axes to the candidate's.
        options: the layouts that the two shapes allow, the likeliest first.
        scale: the difference at two precisions.
        comparison: the recorded values'.
        near: earlier points' float64 values.
        result: the reference's float64 value and the candidate's, in the reference's layout.
        unit: roundoff of the narrowest dtype that a program keeps its constants in.
    """

    point: Point
    layout: Rearrangement | None = None
    options: tuple[Rearrangement, ...] = ()
    scale: Scale | None = None
    comparison: Comparison = NOT_COMPARED
    near: tuple[Array, ...] = ()
    result: tuple[Array, Array] | None = None
    unit: float = UNIT_ROUNDOFF["float32"]

    def departs(self, double: Difference) -> bool:
        """Whether a float64 difference is larger than what rounded constants make."""
        return bool(double.special) or double.mean > self.unit * double.magnitude

    def forget(self) -> None:
        """Its layout is to be found anew."""
        self.layout, self.options, self.result = None, (), None


@dataclass(frozen=True)
class Walk:
    """The candidate's replay, in which every point is compared with the reference and given its value.

    Attributes:
        judged: the points.
        mine: the reference's values.
        excluded: points that are left as they are: no counterparts.
        known: what the layouts of the inputs do to axes.
        found: what the walk found.
        results: point → both values in the reference's layout.
    """

    judged: Sequence[Judged]
    mine: Mapping[int, Payload]
    excluded: frozenset[int] = frozenset()
    known: frozenset[tuple[Any, ...]] = frozenset()
    found: Differences = field(default_factory=list)
    results: dict[int, tuple[Array, Array]] = field(default_factory=dict)

    def departing(self) -> set[int]:
        """Points whose float64 difference is larger than rounding the programs' own constants makes."""
        return {
            n
            for n, (one, d) in enumerate(zip(self.judged, self.found, strict=True))
            if d is not None and one.departs(d)
        }

    def hooks(self) -> tuple[Watch, Watch]:
        """What the replay calls before and after every call."""
        self.found[:] = [None] * len(self.judged)
        return reading({number: one.point for number, one in enumerate(self.judged)}, 1, self._meet)

    def _meet(self, executor: Executor, number: int) -> None:
        one, event = self.judged[number], self.judged[number].point.events[1]
        try:
            theirs = executor.payload(executor.read(event))
        except WhydiffError:
            return
        ours = self.mine.get(number)
        if ours is None or ours.bits.size != theirs.bits.size:
            return  # what was changed gives this value another size
        if one.layout is None and not one.options:
            self._lay_out(one, ours, theirs)
        if one.layout is None:
            return
        moved = rearranged(theirs.bits, one.layout.inverse, ours.bits.shape)
        self.found[number] = Difference.between(ours, replace(theirs, bits=moved))
        if theirs.dtype == "float64":
            self.results[number] = numbers(ours), numbers(replace(theirs, bits=moved))
        if number not in self.excluded:
            given = rearranged(ours.bits, one.layout, theirs.bits.shape)
            executor.overwrite(event, executor.adopt_foreign(Payload(given, ours.dtype)))

    def _lay_out(self, one: Judged, ours: Payload, theirs: Payload) -> None:
        """Every layout that the shapes allow; values decide only if they agree, else the layouts of other points do."""
        found = layouts_of(numbers(ours), numbers(theirs), distance_of)
        if not found:
            return
        size = math.sqrt(float(np.square(numbers(ours)).mean()))
        away, layout = found[0]
        if one.departs(Difference(away, size, 0)):
            known = self.known | {_turn(x.layout) for x in self.judged if x.layout is not None and len(x.options) == 1}
            found.sort(key=lambda item: _turn(item[1]) not in known)
            one.options = tuple(layout for _, layout in found[:_LAYOUTS])
            one.layout = one.options[0]
        else:
            one.layout, one.options = layout, (layout,)


def _turn(layout: Rearrangement) -> tuple[Any, ...]:
    """What a layout does to axes, whatever their sizes."""
    return layout.groups, layout.order, layout.after


def judge(
    reference: Trace, candidate: Trace, points: Sequence[Point], progress: Progress | None, wide: Mapping[str, Array]
) -> tuple[list[Judged], frozenset[int]]:
    """Replay in float32 and float64; the points, and which of them are no counterparts.

    ``wide``: numbers that the candidate's lifted replays take for what it keeps in a narrower dtype.
    """
    unit = max(_unit(reference), _unit(candidate))
    judged = [Judged(point, unit=unit) for point in points]
    differences: dict[str, Differences] = {}
    excluded: frozenset[int] = frozenset()
    known = frozenset(_turn(given.layout) for given in match_inputs(reference, candidate) or ())
    for dtype in ("float64", "float32"):
        if progress is not None:
            progress(f"replay both models in {dtype}", 0, 1)
        lift = Lift(dtype)
        mine = values_of(executor_of(reference, lift=lift), points)

        def walk(left: frozenset[int], lift: Lift = lift, mine: Mapping[int, Payload] = mine) -> Walk:
            walk = Walk(judged, mine, left, known)
            before, watch = walk.hooks()
            Program(candidate, wide, lift.dtype).run(before=before, watch=watch)
            return walk

        if dtype == "float64":
            _settle_layouts(walk, judged)
            excluded = _no_counterparts(walk, judged, _summed(reference, walk(frozenset()), lift))
        done = walk(excluded)
        differences[dtype] = done.found
        if dtype == "float64":
            _remember(judged, done, excluded)
    for number, (one, single, double) in enumerate(
        zip(judged, differences["float32"], differences["float64"], strict=True)
    ):
        if number in excluded:
            one.layout, one.comparison = None, Comparison("not_compared", "the values are no counterparts")
        elif single is not None and double is not None:
            one.scale = Scale(single, double, str(one.point.events[0].site))
    plain = [executor_of(t) for t in (reference, candidate)]
    ours, theirs = values_of(plain[0], points), values_of(plain[1], points, 1)
    for n, one in enumerate(judged):
        if one.layout is not None and n in ours and n in theirs:
            moved = rearranged(theirs[n].bits, one.layout.inverse, ours[n].bits.shape)
            one.comparison = compare_payloads(ours[n], replace(theirs[n], bits=moved))
    return judged, excluded


def _unit(trace: Trace) -> float:
    """Roundoff of the narrowest floating dtype among a program's constants and weights, float32 or narrower."""
    kept = [UNIT_ROUNDOFF.get(leaf.spec.dtype, 0.0) for leaf in trace.leaves if leaf.role != "input"]
    return max([UNIT_ROUNDOFF["float32"], *kept])


def reading(points: Mapping[int, Point], side: int, see: Callable[[Executor, int], None]) -> tuple[Watch, Watch]:
    """Hooks that look at points' values in a replay."""
    wanted: dict[tuple[int, bool], list[int]] = {}
    for number, point in points.items():
        wanted.setdefault((point.calls[side].index, point.side == "out of"), []).append(number)

    def look(after: bool, executor: Executor, call: Call) -> None:
        for number in wanted.get((call.index, after), ()):
            see(executor, number)

    return (lambda executor, call: look(False, executor, call)), (lambda executor, call: look(True, executor, call))


def values_of(executor: Executor, points: Sequence[Point], side: int = 0) -> dict[int, Payload]:
    """Every point's value in a replay that nothing is changed in."""
    found: dict[int, Payload] = {}

    def see(executor: Executor, number: int) -> None:
        found[number] = executor.payload(executor.read(points[number].events[side]))

    before, watch = reading(dict(enumerate(points)), side, see)
    replay(executor, before=before, watch=watch)
    return found


def _settle_layouts(walk: Callable[[frozenset[int]], Walk], judged: Sequence[Judged]) -> None:
    """Find every point's layout.

    Where the values depart under every layout that the shapes allow, they say nothing of it: a wrong one shows by what
    the reference's value, given in it, does further on, and the one after which the fewest points depart is taken.
    """
    walk(frozenset())
    for number, one in [*enumerate(judged)]:
        if len(one.options) < 2:
            continue
        later = {}
        for option in one.options:
            _try(judged, number, option)
            later[option] = sum(n > number for n in walk(frozenset()).departing())
            if not later[option]:
                break
        options = one.options
        _try(judged, number, min(later, key=lambda option: later[option]))
        walk(frozenset())
        one.options = options


def _try(judged: Sequence[Judged], number: int, option: Rearrangement) -> None:
    judged[number].layout = option
    for later in judged[number + 1 :]:
        later.forget()


def _summed(reference: Trace, walk: Walk, lift: Lift) -> frozenset[int]:
    """Departing points at which the candidate's value is what the reference makes of its own in its next sum.

    A bias that is added after the residual on one side and before it on the other: shown by the numbers.
    """
    adapter = for_framework(reference.framework)
    departing: dict[int, list[int]] = {}
    for number in walk.departing():
        departing.setdefault(walk.judged[number].point.events[0].storage, []).append(number)
    wanted: dict[int, list[int]] = {}
    for call in reference.calls if departing else ():
        read = {event.storage for event in call.reads} & departing.keys()
        if read and Role.PLUS in adapter.roles(call.site.op):
            wanted[call.index] = [number for storage in sorted(read) for number in departing[storage]]
    found: set[int] = set()

    def watch(executor: Executor, call: Call) -> None:
        for number in wanted.get(call.index, ()):
            theirs = walk.results[number][1] if number in walk.results else np.zeros(0)
            summed = numbers(executor.payload(executor.read(call.writes[0])))
            if summed.size == theirs.size:
                size = math.sqrt(float(np.square(summed).mean()))
                away = float(np.abs(summed.reshape(-1) - theirs.reshape(-1)).mean())
                if not walk.judged[number].departs(Difference(away, size, 0)):
                    found.add(number)

    if wanted:
        replay(adapter.executor(reference, lift=lift), watch=watch)
    return frozenset(found)


def _no_counterparts(
    walk: Callable[[frozenset[int]], Walk], judged: Sequence[Judged], summed: frozenset[int]
) -> frozenset[int]:
    """Points that are not the same value on both sides (a bias added before or after a residual).

    Giving the candidate the reference's value there makes it wrong further on; leaving it alone does not. At a
    mistake it is the other way round. Points that are tentative are counterparts only if that shows; ``summed`` ones are none.
    """
    tentative = frozenset(n for n, one in enumerate(judged) if one.point.tentative)
    found = walk(summed)
    excluded = (tentative & found.departing()) | summed
    found = walk(excluded) if excluded else found
    tried = set(summed)
    while len(tried) < _MOST:
        first = next((n for n in sorted(found.departing() | excluded) if n not in tried), None)
        if first is None:
            break
        tried.add(first)
        given, left = (walk(some) for some in (excluded - {first}, excluded | {first}))
        if first in excluded and _after(given, first) < _after(left, first):
            excluded, found = excluded - {first}, given
        elif first not in excluded and _after(left, first) < _after(given, first):
            excluded, found = excluded | {first}, left
    return excluded


def _after(walk: Walk, first: int) -> set[int]:
    """Departing points after one."""
    return {n for n in walk.departing() if n > first}


def _remember(judged: Sequence[Judged], done: Walk, excluded: frozenset[int]) -> None:
    """For every point its values, and those of the points before it."""
    seen: list[Array] = []
    for number, one in enumerate(judged):
        one.near = tuple(seen[-6:])
        one.result = done.results.get(number)
        if number not in excluded and one.result is not None:
            seen.append(one.result[0])


def departed(judged: Sequence[Judged]) -> Iterator[tuple[int, Judged]]:
    """Points at which a difference stays when the programs are lifted."""
    for number, one in enumerate(judged):
        if one.scale is not None and one.scale.nature in ("stays", "between") and one.departs(one.scale.double):
            yield number, one
