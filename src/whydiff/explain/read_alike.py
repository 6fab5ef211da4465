"""State that no name brings together: under names that only one side has each, and read in the same place."""

from __future__ import annotations

from collections.abc import Iterable

from whydiff.explain.case import Case
from whydiff.records import Leaf


def read_alike(case: Case) -> tuple[tuple[Leaf, Leaf], ...]:
    """Such pairs that differ, the reference's first."""
    found = case.shared("read alike", lambda: (*_in_one_position(case), *_in_one_region(case)))
    return tuple(found)


def _in_one_position(case: Case) -> Iterable[tuple[Leaf, Leaf]]:
    """Read at the same position of the same origin."""
    lone_r, lone_c = ({leaf.storage: leaf for leaf in leaves} for leaves in case.lone_leaves())
    for origin in case.localization.origins:
        reference, candidate = origin.calls
        if origin.kind != "state" or origin.region or reference < 0 or candidate < 0:
            continue
        reads = (case.reference.calls[reference].reads, case.candidate.calls[candidate].reads)
        for ours, theirs in zip(*reads, strict=False):  # calls of one operator; a longer list has no counterpart
            if ours.producer != -1 or theirs.producer != -1:
                continue
            found = lone_r.pop(ours.storage, None), lone_c.pop(theirs.storage, None)
            if found[0] is not None and found[1] is not None:
                yield found[0], found[1]


def _in_one_region(case: Case) -> Iterable[tuple[Leaf, Leaf]]:
    """What ops without a counterpart make of it is an origin that names it."""
    lone_r, lone_c = ({leaf.name: leaf for leaf in leaves} for leaves in case.lone_leaves())
    for origin in case.localization.origins:
        if origin.kind == "state" and origin.region:
            ours, theirs = ([lone[name] for name in origin.leaves if name in lone] for lone in (lone_r, lone_c))
            if len(ours) == len(theirs) == 1:
                yield ours[0], theirs[0]


__all__ = ["read_alike"]
