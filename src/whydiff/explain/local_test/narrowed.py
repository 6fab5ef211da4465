"""A region cut down to where its difference is made: between values that agree in float64, up to the first that decides.

Two programs that spell a step out otherwise share few ops, and what lies between two paired ones may be a whole layer of
a model. In float64 both sides' values on the way can be compared although no call corresponds: some are equal. And where
each side, given a value of the other's in the place of one of its own, ends as the other does, all that differs lies before
these two values.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from whydiff.capturing.adapters import Exchanged, Executor, for_framework
from whydiff.explain.case import Case
from whydiff.explain.interventions import edits
from whydiff.explain.local_test.examine import _FAILURES, Examined
from whydiff.explain.local_test.judge import undecided
from whydiff.explain.local_test.operation import Array
from whydiff.explain.local_test.regions import single_of
from whydiff.explain.local_test.replays import Changed, Region
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN, SAME_FUNCTION, SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Call, Event, Intervention, Lift, Payload, Trace

RESTORED = "restore-input"
GIVEN = frozenset({"set-argument", RESTORED})
"""Interventions that can be made in a region."""
_CUTS = 96
"""Cuts that are tried, the smallest first (a size, not a tolerance)."""
_VALUES = 1 << 24
"""Numbers that are held in float64 on the way at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A value on the way: what a call of the region makes first, or what the region is given.

    Attributes:
        event: it, with the call that makes it as its producer where that is one of the region.
        array: in float64.
        above: the region's calls that it is made by.
        given: position among the region's inputs; None: a call makes it.
    """

    event: Event
    array: Array
    above: frozenset[int]
    given: int | None = None


@dataclass(eq=False)
class _Way:
    """One side carried out, with every value on the way.

    Attributes:
        region: the side.
        arrays: what it reads.
        nodes: what can be compared.
        end: the result.
        reads, made: by call what it reads and what it gives.
    """

    region: Region
    arrays: Sequence[Array]
    nodes: list[Node] = field(default_factory=list)
    end: Array = field(default_factory=lambda: np.zeros(0))
    reads: dict[int, Sequence[Array]] = field(default_factory=dict)
    made: dict[int, Sequence[Array]] = field(default_factory=dict)

    def walk(self, given: tuple[int, Array] | None = None) -> None:
        """Carry it out and note what can be compared; ``given``: a call, and what it gives first instead."""
        above: dict[int, frozenset[int]] = {}

        def seen(call: Call, reads: Sequence[Array], outputs: Sequence[Array]) -> None:
            self.reads[call.index], self.made[call.index] = reads, outputs
            before = (above.get(event.producer, frozenset()) for event in call.reads if not event.overwritten)
            above[call.index] = frozenset({call.index}).union(*before)
            if call.writes and outputs and _counts(outputs[0]) and not call.mutates:
                made = replace(call.writes[0], producer=call.index)
                self.nodes.append(Node(made, outputs[0], above[call.index]))

        for position, (event, array) in enumerate(zip(self.region.inputs, self.arrays, strict=True)):
            if _counts(array):
                self.nodes.append(Node(event, array, frozenset(), position))
        instead = None if given is None else {given[0]: [given[1], *self.made[given[0]][1:]]}
        self.end = self.region.run(self.arrays, seen=seen, given=instead)

    def end_with(self, node: Node, array: Array) -> Array:
        """What comes of it if a value on the way is another one."""
        other = array.reshape(node.array.shape)
        if node.given is not None:
            return self.region.run([other if i == node.given else given for i, given in enumerate(self.arrays)])
        index = node.event.producer
        return self.region.run(self.arrays, given={index: [other, *self.made[index][1:]]})

    def below(self, node: Node, stops: frozenset[int]) -> tuple[Call, ...]:
        """The calls that make a value out of those that some calls make, and of what the region is given."""
        calls = {call.index: call for call in self.region.calls}
        found: set[int] = set()
        waiting = [node.event.producer] if node.given is None else []
        while waiting:
            index = waiting.pop()
            if index in calls and index not in stops | found:
                found.add(index)
                waiting += [event.producer for event in calls[index].reads if not event.overwritten]
        return tuple(calls[index] for index in sorted(found))

    def part(self, calls: Sequence[Call], node: Node) -> tuple[Region, list[Array]]:
        """Some of the calls as a region of their own, and what it is given."""
        part = Region(calls, node.event, self.region.lifted)
        if not calls:
            return part, [node.array]
        given = part.reads_by_call()
        return part, [
            array
            for call in calls
            for event, array in zip(call.reads, self.reads[call.index], strict=True)
            if any(event is one for one in given.get(call.index, ()))
        ]


class Inside:
    """Both sides of a region carried out in float64: which values on the way are equal, and what lies between others.

    Args:
        seen: the region.
        ours, theirs: the sides, carried out.
    """

    def __init__(self, seen: Examined, ours: _Way, theirs: _Way) -> None:
        self.seen, self.ways = seen, (ours, theirs)
        self.level = min(SAME_FUNCTION * UNIT_ROUNDOFF["float32"], apart(ours.end, theirs.end) / HYPOTHESIS_MARGIN)
        self.equal = [(a, b) for a in ours.nodes for b in theirs.nodes if apart(a.array, b.array) <= SCALING_FLOOR]
        self._stops = [
            frozenset(pair[side].event.producer for pair in self.equal if pair[side].given is None) for side in (0, 1)
        ]

    def lone(self, side: int) -> list[Node]:
        """Values of one side that the other does not have."""
        known = {id(pair[side]) for pair in self.equal}
        return [node for node in self.ways[side].nodes if id(node) not in known]

    def decisive(self) -> Examined | None:
        """The smallest part up to two values behind which both sides are one function."""
        ours, theirs = self.ways
        known = {(id(a), id(b)) for a, b in self.equal}
        cuts = []
        for a, b in itertools.product(ours.nodes, theirs.nodes):
            if a.array.size == b.array.size and (id(a), id(b)) not in known:
                calls = self._below(a, b)
                if any(calls):
                    cuts.append((sum(map(len, calls)), a, b))
        whole = sum(map(len, self.seen.calls))
        for size, a, b in sorted(cuts, key=lambda cut: cut[0])[:_CUTS]:
            if (
                size < whole
                and apart(ours.end, theirs.end_with(b, a.array)) <= self.level
                and apart(theirs.end, ours.end_with(a, b.array)) <= self.level
            ):
                return self.up_to(a, b)
        return None

    def up_to(self, a: Node, b: Node) -> Examined:
        """What lies between equal values and these two."""
        calls = self._below(a, b)
        parts = [way.part(some, node) for way, some, node in zip(self.ways, calls, (a, b), strict=True)]
        return _examined(self.seen, (parts[0], parts[1]), calls)

    def behind(self, a: Node, b: Node) -> Examined | None:
        """What lies between these two, the second as the first, and the end; None: the sides are one function there."""
        ours, theirs = self.ways
        if a.given is not None or b.given is not None:
            return None
        other = _Way(theirs.region, theirs.arrays, made=theirs.made)
        other.walk((b.event.producer, a.array.reshape(b.array.shape)))
        if apart(ours.end, other.end) <= self.level:
            return None
        ends = [Node(event, way.end, frozenset()) for event, way in zip(self.seen.results, (ours, other), strict=True)]
        inside = Inside(self.seen, ours, other)
        calls = inside._below(ends[0], ends[1])
        parts = [way.part(some, end) for way, some, end in zip((ours, other), calls, ends, strict=True)]
        return _examined(self.seen, (parts[0], parts[1]), calls)

    def _below(self, a: Node, b: Node) -> tuple[tuple[Call, ...], tuple[Call, ...]]:
        return self.ways[0].below(a, self._stops[0]), self.ways[1].below(b, self._stops[1])


class Sides:
    """Both sides of a region, to be carried out in float64 several times; what they gave at first is kept (see `Region`).

    Args:
        case: the pair of runs.
        seen: an examined region.
    """

    def __init__(self, case: Case, seen: Examined) -> None:
        self.case, self.seen = case, seen

    @functools.cached_property
    def regions(self) -> tuple[Region, Region]:
        """The reference's, the candidate's.

        Raises:
            WhydiffError: the framework has no float64 oracle.
        """
        lifted = [_lifted(trace) for trace in self.case.traces]
        ours, theirs = (Region(*side) for side in zip(self.seen.calls, self.seen.results, lifted, strict=True))
        return ours, theirs

    def run(self, side: int, items: Sequence[Intervention]) -> Array:
        """What one side gives with other arguments in the place of some of its calls'.

        Args:
            side: 0 or 1.
            items: what it is given instead, arguments alone.

        Raises:
            ReplayError: there is no such argument, or an op cannot be carried out with it.
        """
        trace = self.case.traces[side]
        calls = edits(trace, items)
        changed = Changed(calls, _lifted(Exchanged(trace, calls.values()), calls)) if calls else None
        return self.regions[side].run(self.seen.operations[side].reads, changed=changed)

    def inside(self, items: Sequence[Intervention] = ()) -> Inside | None:
        """Both sides with what is on the way; None if float64 cannot tell.

        Args:
            items: what the candidate is given instead (`GIVEN`): arguments, tensors of the reference.
        """
        if (
            any(call.rng for calls in self.seen.calls for call in calls)
            or max(map(_numbers, self.seen.calls)) > _VALUES
        ):
            return None
        try:
            ours, theirs = self.regions
            if changed := edits(self.case.candidate, items):
                lifted = _lifted(self.case.candidate, exchanged=changed)
                theirs = Region([changed.get(call.index, call) for call in theirs.calls], theirs.result, lifted)
            ways = _Way(ours, self.seen.operations[0].reads), _Way(theirs, _given(self.seen, self.case, items))
            for way in ways:
                way.walk()
        except _FAILURES:  # a step that float64 cannot do: then nothing on the way is known
            return None
        return Inside(self.seen, *ways)


def _lifted(trace: Trace, exchanged: Mapping[int, Call] | None = None) -> Executor:
    return for_framework(trace.framework).executor(trace, lift=Lift("float64"), exchanged=exchanged)


def _numbers(calls: Sequence[Call]) -> int:
    """How many are read and written by calls."""
    return sum(event.spec.numel for call in calls for event in (*call.reads, *call.writes))


def _given(seen: Examined, case: Case, items: Sequence[Intervention]) -> list[Array]:
    """What the candidate's ops read, with the reference's tensors in the place of some."""
    ours, theirs = ({leaf.name: leaf.storage for leaf in trace.leaves} for trace in case.traces)
    own = {event.storage: array for event, array in zip(seen.reads[0], seen.operations[0].reads, strict=True)}
    instead = {theirs.get(i.target): own.get(ours.get(i.value or i.target, -1)) for i in items if i.name == RESTORED}
    reads = zip(seen.reads[1], seen.operations[1].reads, strict=True)
    return [
        other if (other := instead.get(event.storage)) is not None and other.shape == array.shape else array
        for event, array in reads
    ]


def narrowed(sides: Sides) -> Examined | None:
    """What of a region makes its whole difference, as a smaller one; None if no part of it does, or float64 cannot tell."""
    found = sides.inside()
    try:
        return None if found is None else found.decisive()
    except _FAILURES:
        return None


def _examined(
    seen: Examined, parts: tuple[tuple[Region, list[Array]], ...], calls: tuple[tuple[Call, ...], tuple[Call, ...]]
) -> Examined:
    given = [[Payload(array, str(array.dtype)) for array in arrays] for _, arrays in parts]
    ours, theirs = (region.operation(reads) for (region, _), reads in zip(parts, given, strict=True))
    shaped, shape = theirs.run, ours.shape
    theirs = replace(theirs, run=lambda reads, arguments: shaped(reads, arguments).reshape(shape), shape=shape)
    made = [Payload(np.ascontiguousarray(op.run(op.reads, op.arguments)), "float64") for op in (ours, theirs)]
    return Examined(
        number=seen.number,
        calls=calls,
        reads=(parts[0][0].inputs, parts[1][0].inputs),
        results=(parts[0][0].result, parts[1][0].result),
        operations=(ours, theirs),
        outputs=(made[0], made[1]),
        result=undecided("a part of a region"),
        singles=tuple(single_of(region, reads) for (region, _), reads in zip(parts, given, strict=True)),
    )


def _counts(array: Array) -> bool:
    """Whether a value says enough to be known again: some real numbers, and not all one."""
    return array.dtype == np.float64 and array.size > 1 and bool(np.ptp(array.reshape(-1)[:4096]) > 0)


def apart(one: Array, other: Array) -> float:
    """Root mean square of the difference of two values in the order of their elements, over the first's; inf: not alike."""
    if one.size != other.size:
        return math.inf
    ours, theirs = one.reshape(-1), other.reshape(-1)
    known = np.isfinite(ours)
    if not known.any() or not np.array_equal(known, np.isfinite(theirs)):
        return math.inf
    size = float(np.sqrt(np.mean(np.square(ours[known]))))
    return float(np.sqrt(np.mean(np.square(theirs[known] - ours[known])))) / size if size else math.inf


__all__ = ["Inside", "Node", "Sides", "apart", "narrowed"]
