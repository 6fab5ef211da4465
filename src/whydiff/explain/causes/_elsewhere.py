"""A step of one side alone that the other side carries out too: at another place, or by another op."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._looks import one_value
from whydiff.explain.causes._view import View
from whydiff.records import Call, Event, Trace


@dataclass(frozen=True)
class Sides:
    """Both programs, seen from the side that carries out a step.

    Attributes:
        case: the pair of runs.
        side: 0 if the step is the reference's.
        partner: call of this side → its counterpart on the other.
        own, others: compute calls without a counterpart, by their function.
    """

    case: Case
    side: int
    partner: Mapping[int, int]
    own: Mapping[str, Sequence[Call]]
    others: Mapping[str, Sequence[Call]]

    @property
    def traces(self) -> tuple[Trace, Trace]:
        """Of this side, and of the other."""
        both = self.case.traces
        return (both[1], both[0]) if self.side else both

    def one(self, mine: Event, theirs: Event, known: Mapping[int, int]) -> bool:
        """Whether two reads look at values that correspond."""
        if mine.producer >= 0 or theirs.producer >= 0:
            at = known.get(mine.producer, self.partner.get(mine.producer))
            return at is not None and at == theirs.producer
        return one_value(self.case, *((theirs, mine) if self.side else (mine, theirs)))

    def function(self, call: Call) -> str:
        """What a call of this side computes, by the name that both sides have for it."""
        return _function(self.traces[0], call)

    def shared(self, call: Call, other: Call, known: Mapping[int, int]) -> int:
        """How many of the values that two calls read correspond."""
        if len(call.reads) != len(other.reads):
            return -1
        return sum(self.one(mine, theirs, known) for mine, theirs in zip(call.reads, other.reads, strict=True))

    def alike(self, call: Call, other: Call, known: Mapping[int, int]) -> bool:
        """Whether two calls of one function do one thing to two values: the same arguments and other operands."""
        return call.arguments == other.arguments and self.shared(call, other, known) >= len(call.reads) - 1


def at_another_place(view: View) -> tuple[Call, ...]:
    """The other side's calls, without counterparts, that do the same to a value before or after; empty: there are none.

    Not where one side has more such calls than the other: then one of them is left out.
    """
    here = _sides(view)
    if here is None:
        return ()
    calls, found, known = view.seen.calls[here.side], list[Call](), dict[int, int]()
    inside = {call.index for call in calls}
    way = _on_the_way(here.traces[1], view.seen.results[1 - here.side])
    for call in calls:
        taken = {one.index for one in found}
        others = here.others.get(here.function(call), ())
        alike = [one for one in others if one.index not in taken and here.alike(call, one, known)]
        if not alike or not (inside & {event.producer for event in call.reads} or _as_often(here, call)):
            return ()
        found.append(max(alike, key=lambda one: (here.shared(call, one, known), one.index in way)))
        known[call.index] = found[-1].index
    return tuple(found) if {call.index for call in found} & way else ()


def by_another_op(view: View) -> tuple[Call, Call] | None:
    """A call of the step, and the other side's, without a counterpart, that makes something else of the same values.

    Only on the way to the value that differs: what the other side looks at besides takes no step's place.
    """
    here = _sides(view)
    if here is None:
        return None
    way = _on_the_way(here.traces[1], view.seen.results[1 - here.side])
    for call in view.seen.calls[here.side]:
        if len({event.producer for event in call.reads}) < 2:  # one value may be taken up by many
            continue
        function = here.function(call)
        others = [one for name, found in here.others.items() if name != function for one in found if one.index in way]
        for other in sorted(others, key=lambda one: one.index):
            if here.shared(call, other, {}) == len(call.reads):
                return call, other
    return None


def _sides(view: View) -> Sides | None:
    """Seen from the side that has ops where the other one has none; None if that is no side, or both."""
    counts = [len(calls) for calls in view.seen.calls]
    if view.origin.kind != "region" or min(counts) or not max(counts):
        return None
    case, side = view.case, int(counts[1] > 0)
    return case.shared(f"elsewhere {side}", lambda: _seen_from(case, side))


def _seen_from(case: Case, side: int) -> Sides:
    own, others = case.alignment.unpaired_reference, case.alignment.unpaired_candidate
    traces = case.traces
    if side:
        own, others, traces = others, own, traces[::-1]
    return Sides(
        case, side, case.partners[side], *(_computing(t, at) for t, at in zip(traces, (own, others), strict=True))
    )


def _computing(trace: Trace, positions: Any) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in (trace.calls[index] for index in sorted(positions)):
        if call.kind == "compute":
            found.setdefault(_function(trace, call), []).append(call)
    return found


def _function(trace: Trace, call: Call) -> str:
    return str(for_framework(trace.framework).function(call.site.op))


def _as_often(here: Sides, call: Call) -> bool:
    """Whether both sides carry out as many such calls: else one of them is left out, wherever the others are."""
    function = here.function(call)
    like = [one for one in here.others.get(function, ()) if here.alike(call, one, {})]
    known = _Readers(here, like)
    return len(like) == sum(known.alike(mine) for mine in here.own.get(function, ()))


class _Readers:
    """Calls of the other side that do one thing, by what they read: one of its own is held against few of them."""

    def __init__(self, here: Sides, calls: Sequence[Call]) -> None:
        self.here, self.calls = here, calls
        self.made: dict[tuple[int, int], list[Call]] = {}
        self.given: list[dict[int, list[Call]]] = [{}, {}]
        for call in calls:
            for position, event in enumerate(call.reads[:2]):
                if event.producer >= 0:
                    self.made.setdefault((position, event.producer), []).append(call)
                else:
                    self.given[position].setdefault(event.storage, []).append(call)

    def alike(self, call: Call) -> bool:
        """Whether one of them does the same as a call of this side: of two operands or more, one of the first two is common."""
        if len(call.reads) < 2:
            return any(self.here.alike(call, one, {}) for one in self.calls)
        return any(
            self.here.alike(call, one, {})
            for position, event in enumerate(call.reads[:2])
            for one in self._reading(position, event)
        )

    def _reading(self, position: int, event: Event) -> Iterator[Call]:
        if event.producer >= 0:
            yield from self.made.get((position, self.here.partner.get(event.producer, -1)), ())
            return
        for calls in self.given[position].values():
            if self.here.one(event, calls[0].reads[position], {}):
                yield from calls


def _on_the_way(trace: Trace, end: Event) -> set[int]:
    """Calls that lead to a value, and those that something of it reaches."""
    before, waiting = set[int](), [end.producer]
    while waiting:
        at = waiting.pop()
        if at >= 0 and at not in before:
            before.add(at)
            waiting += [event.producer for event in trace.calls[at].reads if not event.overwritten]
    after = {end.producer} if end.producer >= 0 else set[int]()
    for call in trace.calls[max(end.producer, 0) :]:
        if any(e.producer in after or (e.producer, e.storage) == (end.producer, end.storage) for e in call.reads):
            after.add(call.index)
    return before | after
