"""Ops that read another tensor of the run's beginning than their counterparts: not by other contents of one name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whydiff.explain.case import Case
from whydiff.explain.causes._compiled import stale_sides
from whydiff.explain.causes._looks import leaves
from whydiff.explain.sides import SIDES, Side
from whydiff.pair.lockstep import matched
from whydiff.records import Event, Evidence, Intervention, Leaf, Origin
from whydiff.report.words import listed

_KINDS = ("state", "input", "arguments", "layout")


@dataclass(frozen=True, slots=True)
class OtherLeaf:
    """Two paired reads of leaves that have no name in common and other contents.

    Attributes:
        origin: where the difference starts.
        reference, candidate: what is read.
        site: of the candidate's read.
    """

    origin: Origin
    reference: Leaf
    candidate: Leaf
    site: str

    @property
    def frozen(self) -> Side | None:
        """The side whose program keeps a constant where the other one reads what is held; None: neither, or both."""
        constant = [leaf.role == "constant" for leaf in (self.reference, self.candidate)]
        return None if constant[0] == constant[1] else SIDES[constant.index(True)]

    @property
    def held(self) -> Leaf:
        """What the other side than `frozen` reads."""
        return self.candidate if self.frozen == "reference" else self.reference

    @property
    def give(self) -> Intervention:
        """The reference's tensor in the place of the candidate's."""
        return Intervention("restore-state", self.candidate.name, self.reference.name)

    @property
    def evidence(self) -> Evidence:
        """Which tensors are read."""
        return Evidence(
            f"{self.site} is {self.candidate.name} in the candidate and {self.reference.name} in the reference, "
            "and they hold other numbers",
            {"reads": self.site, "candidate": self.candidate.name, "reference": self.reference.name},
        )


def says_of(case: Case, found: Sequence[OtherLeaf]) -> str:
    """What is read for what, in a sentence."""
    if len(found) == 1:
        return f"the candidate reads {found[0].candidate.name} where the reference reads {found[0].reference.name}"
    pairs = listed(f"{one.candidate.name} for {one.reference.name}" for one in found)
    what = "the same tensors in another order" if _reordered(case, found) else "other tensors than the reference"
    return f"the candidate reads {what}: {pairs}"


def advice_of(case: Case, found: Sequence[OtherLeaf]) -> str:
    """What to change."""
    if _reordered(case, found):
        return "Read them in one order on both sides: names that are sorted as texts put 10 before 2."
    pairs = listed(f"{one.reference.name} for {one.candidate.name}" for one in found)
    one = f"{found[0].reference.name} on both sides, where the candidate reads {found[0].candidate.name}"
    return f"Read {one}." if len(found) == 1 else f"Read the reference's tensors on both sides: {pairs}."


def _reordered(case: Case, found: Sequence[OtherLeaf]) -> bool:
    """Whether both sides read the same tensors, each in another's place."""
    return len(found) > 1 and {case.rename(one.candidate.name) for one in found} == {
        one.reference.name for one in found
    }


def other_leaves(case: Case) -> Sequence[OtherLeaf]:
    """Every such read at an origin; one per tensor."""
    return case.shared("other leaves", lambda: tuple(_found(case)))


def stale(case: Case) -> Sequence[OtherLeaf]:
    """Those of a program that was traced before: traced anew it gives other outputs, and it holds the other's tensor."""
    return case.shared("stale constants", lambda: tuple(_stale(case)))


def _stale(case: Case) -> Iterator[OtherLeaf]:
    found = [one for one in other_leaves(case) if one.frozen is not None and _held_alike(case, one)]
    sides = stale_sides(case) if found else ()
    yield from (one for one in found if one.frozen in sides)


def _held_alike(case: Case, found: OtherLeaf) -> bool:
    """Whether the side that reads a constant holds the other side's tensor, under its name, with equal bits."""
    pair = case.leaves.get(case.rename(found.held.name) if found.frozen == "reference" else found.held.name)
    prints = [leaf.fingerprint for leaf in pair or () if leaf is not None]
    return len(prints) == 2 and prints[0] is not None and prints[0] == prints[1]


def _found(case: Case) -> Iterator[OtherLeaf]:
    lone = {leaf.name for side in case.lone_leaves() for leaf in side}
    known: set[tuple[str, str]] = set()
    for origin in case.localization.origins:
        if origin.kind not in _KINDS or min(origin.calls) < 0:
            continue
        calls = case.calls_at(origin.calls)
        for er, ec in matched(*calls, "reads"):
            pair = _pair(case, er, ec)
            if pair is None or (pair[0].name, pair[1].name) in known or {pair[0].name, pair[1].name} <= lone:
                continue
            known.add((pair[0].name, pair[1].name))
            yield OtherLeaf(origin, *pair, str(ec.site))


def _pair(case: Case, er: Event, ec: Event) -> tuple[Leaf, Leaf] | None:
    ours, theirs = leaves(case.reference, er), leaves(case.candidate, ec)
    if not ours or not theirs or {leaf.name for leaf in ours} & {case.rename(leaf.name) for leaf in theirs}:
        return None
    one, other = ours[0], theirs[0]
    if one.role == other.role == "constant" or None in (one.fingerprint, other.fingerprint):
        return None
    alike = one.spec.shape == other.spec.shape and one.spec.dtype == other.spec.dtype
    return (one, other) if alike and one.fingerprint != other.fingerprint else None
