"""Which origins belong together: one op of the program lies before a paired op on one side and after it on the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from whydiff.explain.alike import made_by
from whydiff.explain.case import Case
from whydiff.explain.local_test import Joint
from whydiff.explain.local_test.areas import areas
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Event

_REACH = 16
"""Ops over which what differs at an origin is followed."""
_CALLS = 64
_EACH = 6
"""Joints that one origin is the first of, the smallest."""


@dataclass(eq=False)
class _Side:
    """One program: what of it is reached by which origins, and over how many ops."""

    calls: Sequence[Call]
    partner: Mapping[int, int]
    own: dict[int, set[int]] = field(default_factory=dict)
    reached: dict[int, dict[int, int]] = field(default_factory=dict)

    def follow(self, index: int, also: Iterable[int] = ()) -> None:
        """Note which origins reach a call, through what it reads, by being its own, or also."""
        found = dict.fromkeys((*self.own.get(index, ()), *also), 0)
        for event in self.calls[index].reads:
            for number, steps in self.reached.get(event.producer, {}).items():
                if steps < _REACH:
                    found[number] = min(steps + 1, found.get(number, _REACH))
        if found:
            self.reached[index] = found

    def readers(self) -> dict[int, list[Call]]:
        """Call → the calls that read what it made."""
        found: dict[int, list[Call]] = {}
        for call in self.calls:
            if call.kind != "view":
                for producer in {event.producer for event in call.reads}:
                    found.setdefault(producer, []).append(call)
        return found


def joints_of(case: Case, numbers: Sequence[int]) -> list[Joint]:
    """What lies between agreeing inputs and a later value over which origins meet again, the smallest first.

    A joint holds the ops of its origins and what they reach up to that value, on both sides alike. No other value
    leaves it, so that it can be exchanged as a whole.

    Args:
        case: the pair of runs.
        numbers: positions of the origins that may take part.
    """
    sides = (_Side(case.reference.calls, case.partners[0]), _Side(case.candidate.calls, case.partners[1]))
    bare = _own(case, numbers, sides)
    readers = sides[0].readers(), sides[1].readers()
    joints: list[Joint] = []
    known: set[tuple[int, int]] = set()
    tried: Counter[int] = Counter()
    begun: Counter[int] = Counter()
    at = [0, 0]
    for pair in case.alignment.pairs:
        both = pair.reference, pair.candidate
        for side, end in enumerate(both):
            for index in range(at[side], end):
                sides[side].follow(index)
            at[side] = end + 1
        calls = case.calls_at(both)
        looks = matched(*calls, "reads")
        for look in looks:
            made = look[0].producer, look[1].producer
            members = {n for i in (0, 1) for n in sides[i].reached.get(made[i], ())}
            if not members or made in known or look[0].spec.shape != look[1].spec.shape:
                continue
            known.add(made)
            tried[min(members)] += 1
            if tried[min(members)] <= _EACH * _EACH:
                joint = _joint(sides, readers, (look[0], look[1]))
                if joint is not None and begun[joint.members[0]] < _EACH:
                    joints.append(joint)
                    begun[joint.members[0]] += 1
        also = {n for look in looks for n in bare.get(made_by(*calls, *look), ())}
        for side, index in enumerate(both):
            sides[side].follow(index, also)
        union = {**sides[0].reached.get(both[0], {}), **sides[1].reached.get(both[1], {})}
        for side, index in enumerate(both):
            if union:
                sides[side].reached[index] = union
    return sorted(joints, key=lambda joint: len(joint.calls[0]) + len(joint.calls[1]))


def _own(case: Case, numbers: Sequence[int], sides: tuple[_Side, _Side]) -> dict[tuple[int, int], list[int]]:
    """Give every origin its calls; those of origins without any begin where their two values are read.

    A region of paired ops alone (they read one value in two shapes: per group, or over the whole batch) has those two.
    """
    origins = case.localization.origins
    bare: dict[tuple[int, int], list[int]] = {}
    for area, _ in areas(case, [n for n in numbers if origins[n].kind == "region"]):
        for side in (0, 1):
            for call in area.calls[side]:
                sides[side].own.setdefault(call.index, set()).add(area.origin)
        bare.setdefault(origins[area.origin].calls, []).append(area.origin)
    looked_at = {number for found in bare.values() for number in found}
    for number in numbers:
        if number not in looked_at:
            for side, index in enumerate(origins[number].calls):
                sides[side].own.setdefault(index, set()).add(number)
    return bare


def _joint(
    sides: tuple[_Side, _Side], readers: tuple[dict[int, list[Call]], dict[int, list[Call]]], look: tuple[Event, Event]
) -> Joint | None:
    """All that leads to a value from agreeing ones; None if it is too much, or if another value leaves it."""
    inside: tuple[set[int], set[int]] = (set(), set())
    waiting = [(side, look[side].producer, look[side]) for side in (0, 1)]
    while waiting:
        side, index, read = waiting.pop()
        here = sides[side]
        if index < 0 or index in inside[side] or (index in here.partner and index not in here.reached):
            continue
        inside[side].add(index)
        if len(inside[side]) > _CALLS:
            return None
        waiting += [(side, e.producer, e) for e in here.calls[index].reads if not _covered(e, read)]
        if index in here.partner:
            waiting.append((1 - side, here.partner[index], read))
    if not all(inside) or not all(_closed(sides[i], readers[i], inside[i], look[i]) for i in (0, 1)):
        return None
    calls = tuple([sides[i].calls[index] for index in sorted(inside[i])] for i in (0, 1))
    if any(call.rng for side in calls for call in side):
        return None  # what is drawn is not repeated in float64
    members = {n for i in (0, 1) for index in inside[i] for n in sides[i].own.get(index, ())}
    owned = {n for side in sides for found in side.own.values() for n in found}
    begun = {n for i in (0, 1) for index in inside[i] for n in sides[i].reached.get(index, ())}
    members |= begun - owned  # one that has calls is a member by them: it may reach memory that is written over here
    if not members:
        return None
    outside = {
        n for side, some in zip(sides, inside, strict=True) for index in side.own.keys() - some for n in side.own[index]
    }
    return Joint(tuple(sorted(members)), look, (calls[0], calls[1]), frozenset(members - outside))


def _covered(old: Event, read: Event) -> bool:
    """Whether a call writes over all that is read afterwards, so that the old content does not matter."""
    return old.overwritten and old.spec.numel >= read.spec.numel


def _closed(side: _Side, readers: Mapping[int, Sequence[Call]], inside: set[int], end: Event) -> bool:
    """Whether all ops lead to the end, and nothing but the end's value is read outside."""
    reached: set[int] = set()
    waiting = [end.producer]
    while waiting:
        at = waiting.pop()
        if at in inside and at not in reached:
            reached.add(at)
            waiting += [event.producer for event in side.calls[at].reads]
    if reached != inside:
        return False
    return not any(
        event.producer == index and (event.producer, event.storage) != (end.producer, end.storage)
        for index in inside
        for call in readers.get(index, ())
        if call.index not in inside
        for event in call.reads
    )
