"""What a value was made from: unpaired calls, leaves, and the paired calls before them."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.numbers.casts import proven_cast
from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Event, Leaf, Trace

Region = tuple[list[int], dict[str, Leaf], set[int]]
"""Unpaired calls between paired values and an event, leaves that they read, paired calls that they read."""


class Upstream:
    """Looks back from the values of one walk."""

    def __init__(self, step: Lockstep) -> None:
        self.step = step
        self._traces = (step.reference.trace, step.candidate.trace)
        self.calls = (step.reference.trace.calls, step.candidate.trace.calls)
        self.unpaired = (set(step.alignment.unpaired_reference), set(step.alignment.unpaired_candidate))

    def of(self, side: int, event: Event) -> Region:
        """What an event's value was made from, back to paired values and leaves."""
        inside, first, bounds = walked_back(self.calls[side], self.unpaired[side], event)
        return inside, {leaf.name: leaf for at in first for leaf in self.step.leaves_of(side, at)}, bounds

    def differing(self, leaves_r: Mapping[str, Leaf], leaves_c: Mapping[str, Leaf]) -> tuple[tuple[str, ...], set[str]]:
        """Names of the leaves of both that differ, in execution order of the candidate's, and their roles."""
        found = [(leaves_r[name], leaf) for name, leaf in self._renamed(leaves_c).items() if name in leaves_r]
        return named([(r, c) for r, c in found if c.role != "constant" and self.step.leaf_differs(r, c)])

    def one_state(self, reference: Region, candidate: Region) -> tuple[Leaf, Leaf] | None:
        """State that differs, under names that only one side has each, and is the same: its values or its use prove it.

        The one is the other, rounded; or converting it is all that the regions do.
        """
        regions = (reference, candidate)
        lone = [
            [leaf for leaf in leaves.values() if leaf.is_state and self._lone(side, leaf)]
            for side, (_, leaves, _) in enumerate(regions)
        ]
        if [len(leaves) for leaves in lone] != [1, 1]:
            return None
        ours, theirs = lone[0][0], lone[1][0]
        if ours.spec.shape != theirs.spec.shape or ours.fingerprint == theirs.fingerprint:
            return None
        casts = [casts_only(self._traces[side], self.calls[side][at]) for side in (0, 1) for at in regions[side][0]]
        converted = casts == [True] and all(len(leaves) == 1 for _, leaves, _ in regions)
        return (ours, theirs) if converted or self._rounded(ours, theirs) else None

    def _lone(self, side: int, leaf: Leaf) -> bool:
        name = self.step.alignment.rename(leaf.name) if side else leaf.name
        return name not in self._known[1 - side]

    def _rounded(self, ours: Leaf, theirs: Leaf) -> bool:
        step = self.step
        try:
            payloads = (
                step.reference.payload(step.reference.leaf_value(ours)),
                step.candidate.payload(step.candidate.leaf_value(theirs)),
            )
        except WhydiffError:  # a trace that did not keep it
            return False
        cast = proven_cast(*payloads)
        return cast is not None and cast.changed > 0

    @functools.cached_property
    def _known(self) -> tuple[set[str], set[str]]:
        """The names of both sides' leaves, in the reference's naming."""
        reference, candidate = ({leaf.name for leaf in trace.leaves} for trace in self._traces)
        return reference, {self.step.alignment.rename(name) for name in candidate}

    def leaf_kind(self, er: Event, ec: Event) -> tuple[str, tuple[str, ...]]:
        """What kind of origin a differing read of leaves is, and which of them differ."""
        leaves_r = {leaf.name: leaf for leaf in self.step.leaves_of(0, er)}
        leaves_c = {leaf.name: leaf for leaf in self.step.leaves_of(1, ec)}
        names, roles = self.differing(leaves_r, leaves_c)
        if not names:
            names = tuple(sorted(set(leaves_r) | set(leaves_c)))
            roles = {leaf.role for leaf in (*leaves_r.values(), *leaves_c.values())}
            if roles <= {"constant"}:
                return "arguments", names
            if leaves_r.keys() & self._renamed(leaves_c).keys():
                return "layout", ()
        return ("input" if roles <= {"input"} else "state"), names

    def _renamed(self, leaves: Mapping[str, Leaf]) -> dict[str, Leaf]:
        """The candidate's leaves by their names in the reference."""
        return {self.step.alignment.rename(name): leaf for name, leaf in leaves.items()}


def walked_back(
    calls: Sequence[Call], unpaired: Collection[int], event: Event
) -> tuple[list[int], list[Event], set[int]]:
    """Unpaired calls between paired values and an event, what no call made that these read, paired calls they read."""
    inside: set[int] = set()
    first: list[Event] = []
    bounds: set[int] = set()
    waiting = [event]
    while waiting:
        at = waiting.pop()
        if at.producer == -1:
            first.append(at)
        elif at.producer not in unpaired:
            bounds.add(at.producer)
        elif at.producer not in inside:
            inside.add(at.producer)
            waiting.extend(e for e in calls[at.producer].reads if not e.overwritten)
    return sorted(inside), first, bounds


def named(pairs: Sequence[tuple[Leaf, Leaf]]) -> tuple[tuple[str, ...], set[str]]:
    """The names of leaves that correspond, by which either side knows them, and their roles."""
    names = dict.fromkeys(name for ours, theirs in pairs for name in (theirs.name, ours.name))
    return tuple(names), {theirs.role for _, theirs in pairs}


def casts_only(trace: Trace, call: Call) -> bool:
    """Whether all that an op does is to keep the values of one tensor in another dtype."""
    carries = {Role.CAST, Role.CARRIES} & for_framework(trace.framework).roles(call.site.op)
    specs = [event.spec for event in (*call.reads[:1], *call.writes[:1])]
    return bool(carries) and len(specs) == 2 and specs[0].shape == specs[1].shape and specs[0].dtype != specs[1].dtype
