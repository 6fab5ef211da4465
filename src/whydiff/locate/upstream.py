"""What a value was made from: unpaired calls, leaves, and the paired calls before them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from whydiff.pair.lockstep import Lockstep
from whydiff.records import Call, Event, Leaf


class Upstream:
    """Looks back from the values of one walk."""

    def __init__(self, step: Lockstep) -> None:
        self.step = step
        self.calls = (step.reference.trace.calls, step.candidate.trace.calls)
        self.unpaired = (set(step.alignment.unpaired_reference), set(step.alignment.unpaired_candidate))

    def of(self, side: int, event: Event) -> tuple[list[int], dict[str, Leaf], set[int]]:
        """Unpaired calls between paired values and an event, leaves they read, paired calls they read."""
        inside, first, bounds = walked_back(self.calls[side], self.unpaired[side], event)
        return inside, {leaf.name: leaf for at in first for leaf in self.step.leaves_of(side, at)}, bounds

    def differing(self, leaves_r: Mapping[str, Leaf], leaves_c: Mapping[str, Leaf]) -> tuple[tuple[str, ...], set[str]]:
        """Names of the leaves of both that differ, in execution order of the candidate's, and their roles."""
        names = [
            name
            for name, leaf in leaves_c.items()
            if leaf.role != "constant" and name in leaves_r and self.step.leaf_differs(leaves_r[name], leaf)
        ]
        return tuple(names), {leaves_c[name].role for name in names}

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
            if set(leaves_r) & set(leaves_c):
                return "layout", ()
        return ("input" if roles <= {"input"} else "state"), names


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


__all__ = ["Upstream", "walked_back"]
