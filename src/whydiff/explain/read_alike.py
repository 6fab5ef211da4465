"""State that no name brings together: under names that only one side has each, and read in the same place."""

from __future__ import annotations

from collections.abc import Iterable

from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.numbers.casts import Cast, proven_cast
from whydiff.records import Intervention, Leaf

_TRIED = 64
"""Pairs of tensors of one shape, under names that only one side has each, whose values are held against each other."""


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


def told_apart(case: Case) -> tuple[tuple[Leaf, Leaf], ...]:
    """All state and inputs that differ, by name, by place, or as tensors of which one is the other's rounding."""
    return (*case.differing_leaves, *case.shared("told apart", lambda: (*read_alike(case), *_rounded(case))))


def given_instead(ours: Leaf, theirs: Leaf) -> Intervention:
    """The candidate is given the reference's tensor in the place of its own."""
    name = None if theirs.name == ours.name else ours.name
    return Intervention("restore-state" if ours.is_state else "restore-input", theirs.name, name)


def given_back(case: Case, pairs: Iterable[tuple[Leaf, Leaf]] | None = None) -> tuple[Intervention, ...]:
    """What gives the candidate the reference's state and inputs that differ (or some) and have the same shape."""
    if case.reference.framework != case.candidate.framework:
        return ()
    return tuple(
        given_instead(ours, theirs)
        for ours, theirs in (told_apart(case) if pairs is None else pairs)
        if ours.spec.shape == theirs.spec.shape and theirs.storage >= 0
    )


def casts_apart(case: Case) -> tuple[Cast, ...]:
    """How each of them is the other side's, rounded; empty: one is not, or none differs."""

    def found() -> Iterable[Cast]:
        casts = []
        for pair in told_apart(case):
            cast = cast_of(case, *pair)
            if cast is None:
                return ()
            casts.append(cast)
        return casts

    try:
        return tuple(case.shared("casts apart", found))
    except PayloadError:
        return ()


def casts_and_others(case: Case) -> tuple[tuple[Cast, ...], tuple[tuple[Leaf, Leaf], ...]]:
    """How those are rounded of which one side's is the other's, rounded, and the pairs that are none; empty: not kept."""
    try:
        casts = [(pair, cast_of(case, *pair)) for pair in told_apart(case)]
    except PayloadError:
        return (), ()
    return tuple(cast for _, cast in casts if cast is not None), tuple(pair for pair, cast in casts if cast is None)


def cast_of(case: Case, ours: Leaf, theirs: Leaf) -> Cast | None:
    """What shows that one side's tensor is the other's, rounded; None: it is not.

    Raises:
        PayloadError: a trace did not keep its values.
    """
    key = f"cast of {ours.name} and {theirs.name}"
    found = case.shared(key, lambda: proven_cast(case.payload(ours, "reference"), case.payload(theirs, "candidate")))
    return found if isinstance(found, Cast) else None


def _rounded(case: Case) -> Iterable[tuple[Leaf, Leaf]]:
    """Under names that only one side has each, and by its values the other's in a narrower dtype."""
    known = {leaf.name for pair in read_alike(case) for leaf in pair}
    shapes: dict[tuple[int, ...], tuple[list[Leaf], list[Leaf]]] = {}
    for side, leaves in enumerate(case.lone_leaves()):
        for leaf in leaves:
            if leaf.name not in known:
                shapes.setdefault(leaf.spec.shape, ([], []))[side].append(leaf)
    for lone_r, lone_c in shapes.values():
        if len(lone_r) * len(lone_c) > _TRIED:  # a model under other names: what is whose is no matter of values
            continue
        for ours in lone_r:
            theirs = next((leaf for leaf in lone_c if _is_cast(case, ours, leaf)), None)
            if theirs is not None:
                lone_c.remove(theirs)
                yield ours, theirs


def _is_cast(case: Case, ours: Leaf, theirs: Leaf) -> bool:
    if ours.spec.dtype == theirs.spec.dtype:
        return False
    try:
        return cast_of(case, ours, theirs) is not None
    except PayloadError:  # it is not known to be one
        return False
