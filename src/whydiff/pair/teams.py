"""Which calls of several ranks correspond to which call of one process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from whydiff.pair.align import align
from whydiff.pair.align.ends import join_ends
from whydiff.pair.lockstep import paired
from whydiff.records import Alignment, Call, Collective, Event, Trace

Slot = Literal["reads", "writes"]


@dataclass(frozen=True, slots=True)
class Team:
    """One call of the reference and its counterpart on every rank that has one, by index.

    All ranks have one, unless they are the stages of a pipeline: then that rank alone which holds the module.
    """

    reference: int
    ranks: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Shared:
    """One value: the reference's event and every rank's of its team."""

    reference: Event
    ranks: Mapping[int, Event]

    @property
    def lead(self) -> int:
        """The lowest of these ranks."""
        return min(self.ranks)

    @property
    def event(self) -> Event:
        """The lowest rank's."""
        return self.ranks[self.lead]


@dataclass(frozen=True)
class Teams:
    """One process and several ranks.

    Attributes:
        reference: of the one process.
        ranks: rank → its trace.
        alignment: of the reference and the lowest rank.
        teams: in the reference's order.
        unmatched: why ranks that are stages of a pipeline cannot be put together; empty otherwise.
    """

    reference: Trace
    ranks: Mapping[int, Trace]
    alignment: Alignment
    teams: tuple[Team, ...]
    unmatched: str = ""

    @property
    def lead(self) -> int:
        """The lowest rank: it stands for the others where one is enough."""
        return min(self.ranks)

    def calls(self, team: Team) -> tuple[Call, dict[int, Call]]:
        """The calls themselves."""
        return self.reference.calls[team.reference], {r: self.ranks[r].calls[i] for r, i in team.ranks.items()}

    def shared(self, team: Team, slot: Slot) -> Iterator[Shared]:
        """Values that every call of a team reads or writes."""
        ours, theirs = self.calls(team)
        lead = theirs[min(theirs)]
        others = {rank: _by_lead(lead, call, slot) for rank, call in theirs.items()}
        for reference, event in paired(ours, lead, slot):
            found = {rank: known[event.site] for rank, known in others.items() if event.site in known}
            if len(found) == len(theirs) and not any(e.storage < 0 or e.missing for e in (reference, *found.values())):
                yield Shared(reference, found)


def _by_lead(lead: Call, call: Call, slot: Slot) -> dict[object, Event]:
    return {ours.site: theirs for ours, theirs in paired(lead, call, slot)}


def _wrapper(reference: Trace, lead: Trace) -> tuple[tuple[str, str], ...]:
    """A rule that takes a module off around the ranks' model, if its scopes are then the reference's."""
    ours, theirs = ({call.site.scope for call in trace.calls} - {""} for trace in (reference, lead))
    outer = {scope.partition(".")[0] for scope in theirs - ours}
    if len(outer) != 1 or ours <= theirs:
        return ()
    (name,) = outer
    inner = {scope.removeprefix(name).removeprefix(".") for scope in theirs - ours}
    return ((rf"^{re.escape(name)}(\.|$)", ""),) if ours - theirs <= inner else ()


def teams(reference: Trace, ranks: Mapping[int, Trace], rename: Sequence[tuple[str, str]] = ()) -> Teams:
    """Pair one process's calls with those of every rank; what one of them lacks is in no team.

    Args:
        reference: of the one process.
        ranks: rank → its trace; they are paired with each other first.
        rename: rules for the ranks' scopes.
    """
    lead = min(ranks)
    rules = (*rename, *_wrapper(reference, ranks[lead]))
    alignment = join_ends(align(reference, ranks[lead], rename=rules), reference, ranks[lead])
    if any(_stages(ranks)):
        return _staged(reference, ranks, alignment, rename)
    others = {
        rank: {pair.reference: pair.candidate for pair in align(ranks[lead], trace).pairs}
        for rank, trace in ranks.items()
        if rank != lead
    }
    found = [
        Team(pair.reference, {lead: pair.candidate, **{rank: known[pair.candidate] for rank, known in others.items()}})
        for pair in alignment.pairs
        if all(pair.candidate in known for known in others.values())
    ]
    return Teams(reference, ranks, alignment, tuple(found))


def _scopes(trace: Trace) -> set[str]:
    return {call.site.scope for call in trace.calls if call.kind == "compute" and call.site.phase == "forward"}


def _stages(ranks: Mapping[int, Trace]) -> list[bool]:
    """For every two ranks, whether they are two stages of a pipeline: each sends or receives, and has modules of its own."""
    scopes = {rank: _scopes(trace) for rank, trace in ranks.items()}
    linked = {rank for rank, trace in ranks.items() if any(_is_sent(call) for call in trace.calls)}
    return [
        bool({one, other} <= linked and scopes[one] - scopes[other] and scopes[other] - scopes[one])
        for one, other in combinations(ranks, 2)
    ]


def _is_sent(call: Call) -> bool:
    told = Collective.of(call.arguments)
    return told is not None and told.kind in ("send", "recv")


def _staged(
    reference: Trace, ranks: Mapping[int, Trace], alignment: Alignment, rename: Sequence[tuple[str, str]]
) -> Teams:
    """Teams of one rank each: what a stage computes within its modules, forwards, and what the last stage gives back."""
    found: dict[int, Team] = {}
    passes = {rank: sum(call.kind == "return" for call in trace.calls) for rank, trace in ranks.items()}
    wanted, last = sum(call.kind == "return" for call in reference.calls), max(ranks)
    for rank, trace in ranks.items():
        rules = (*rename, *_wrapper(reference, trace))
        for pair in join_ends(align(reference, trace, rename=rules), reference, trace).pairs:
            site = reference.calls[pair.reference].site
            inside = site.scope and site.phase == "forward" and reference.calls[pair.reference].kind == "compute"
            if inside or (rank == last and reference.calls[pair.reference].kind == "return"):
                found.setdefault(pair.reference, Team(pair.reference, {rank: pair.candidate}))
    unmatched = ""
    if not all(_stages(ranks)):
        unmatched = "several ranks share each stage of a pipeline, and these are not put together"
    elif {*passes.values()} != {wanted}:
        told = ", ".join(f"rank {rank} {count}" for rank, count in passes.items())
        unmatched = (
            f"the reference takes {wanted} forward passes, {told}: a pipeline is compared micro-batch by micro-batch"
        )
    left = tuple(n for n in alignment.unpaired_reference if n not in found)
    teams = () if unmatched else tuple(found[n] for n in sorted(found))
    return Teams(reference, ranks, replace(alignment, unpaired_reference=left), teams, unmatched)
