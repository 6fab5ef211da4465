"""Origins from recorded fingerprints alone, for traces that cannot be replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.garbage import not_collecting
from whydiff.locate.counts import counted, surplus_of
from whydiff.locate.localization import Localization
from whydiff.locate.upstream import walked_back
from whydiff.pair.lockstep import paired_or_left
from whydiff.pair.replay import returns
from whydiff.records import (
    Alignment,
    Call,
    Comparison,
    Event,
    Evidence,
    Growth,
    Origin,
    OriginKind,
    Site,
    Slot,
    Verdict,
)


@not_collecting()
def from_fingerprints(reference: Any, candidate: Any, alignment: Alignment, same: Any) -> Localization:
    """Origins from recorded fingerprints alone, for traces that cannot be replayed.

    A call whose output differs is an origin where nothing that it reads comes from a paired call that differs: its
    reads agree, or what differs is state, an input, or made by calls without a counterpart. What comes after it is not
    resynchronised, so later origins may be hidden behind earlier ones (counted as propagated). What one call of a pair
    returns or writes more than the other is counted.
    """
    origins: list[Origin] = []
    growth: list[Growth] = []
    outputs: list[tuple[Slot, Comparison]] = []
    numbers = returns(reference.calls)
    back = _Back(reference, candidate, alignment)
    agreeing = propagated = undecided = 0
    lone: dict[str, int] = {}
    differing: list[str] = []  # scopes of modules that are origins: the modules around them are not
    for pair in alignment.pairs:
        call_r, call_c = reference.calls[pair.reference], candidate.calls[pair.candidate]
        slot = "reads" if call_r.kind == "return" else "writes"
        written, surplus = paired_or_left(call_r, call_c, slot)
        read, more = (written, 0) if slot == "reads" else paired_or_left(call_r, call_c, "reads")
        if surplus + more:
            lone[str(call_r.site)] = surplus + more
        verdicts = [same(a, b) for a, b in written]
        returned, modules = call_r.kind == "return", call_r.kind == "module"
        if returned:
            number = numbers[call_r.index]
            outputs += [(Slot(number, a.site.slot), _recorded(v)) for (a, _), v in zip(written, verdicts, strict=True)]
        else:
            growth += [Growth(a.site, _recorded(v)) for (a, _), v in zip(written[:1], verdicts[:1], strict=True)]
            agreeing += bool(verdicts) and all(verdicts)
        reads = [(a, b, same(a, b)) for a, b in read]
        follows = back.of([(a, b) for a, b, agree in reads if agree is not True]).follows
        if False not in verdicts:
            undecided += None in verdicts and not returned
            if None in verdicts and follows:
                back.differs.add(call_r.index)
            continue
        behind = back.of([(a, b) for a, b, agree in reads if agree is False])
        kind, why = behind.kind
        back.differs.add(call_r.index)
        if follows or not kind or any(_inside(scope, call_r) for scope in differing):
            propagated += not returned
            continue
        if modules:
            differing.append(call_r.site.scope)
        origins.append(_origin(call_r, call_c, kind, why, behind))
    counts = counted(
        {"the fingerprints do not decide (other layout or dtype, or skipped)": [""] * undecided} if undecided else {},
        "values",
    )
    if lone:
        counts += (surplus_of(lone),)
    return Localization(
        origins=tuple(origins),
        growth=tuple(growth),
        outputs=tuple(outputs),
        agreeing=agreeing,
        propagated=propagated,
        counts=counts,
    )


def _origin(call_r: Call, call_c: Call, kind: OriginKind, why: str, behind: _Behind) -> Origin:
    at_r, at_c = behind.made if kind == "region" and behind.made else (call_r, call_c)
    return Origin(
        site=at_r.site,
        candidate_site=at_c.site,
        kind=kind,
        verdict=Verdict.INCONCLUSIVE,
        comparison=_recorded(False),
        calls=(at_r.index, at_c.index),
        leaves=behind.leaves if kind in ("state", "input") else (),
        region=behind.region if kind == "region" else (),
        evidence=(Evidence(f"{why}, by fingerprint; nothing was replayed"),),
    )


@dataclass(frozen=True, slots=True)
class _Behind:
    """What reads that do not agree come from.

    Attributes:
        reads: how many reads there are.
        follows: a paired call that differs is among it.
        leaves: state and inputs that differ.
        roles: of these leaves.
        region: calls without a counterpart.
        made: the calls of both sides that made the first of the reads; None: one of them was made by no call.
        unseen: it is not known what made some of it; where modules alone were recorded, it never is.
    """

    reads: int
    follows: bool
    leaves: tuple[str, ...]
    roles: frozenset[str]
    region: tuple[Site, ...]
    made: tuple[Call, Call] | None
    unseen: bool

    @property
    def kind(self) -> tuple[OriginKind | None, str]:
        """What kind of origin the reader is if its output differs, and why; None: it may follow from an earlier one."""
        if not self.reads:
            return "implementation", "its inputs agree and its output differs"
        if self.unseen:
            return None, ""
        if self.region:
            return "region", "calls without a counterpart make what it reads"
        if self.leaves:
            return ("input" if self.roles <= {"input"} else "state"), f"it reads {', '.join(self.leaves)}"
        return "layout", "what it reads differs, and no call that made it is known to"


class _Back:
    """Looks back from the reads of paired calls, and remembers which calls differ (by the reference's index)."""

    def __init__(self, reference: Any, candidate: Any, alignment: Alignment) -> None:
        self._calls = (reference.calls, candidate.calls)
        self._unpaired = (set(alignment.unpaired_reference), set(alignment.unpaired_candidate))
        self._partner = {pair.candidate: pair.reference for pair in alignment.pairs}
        self._leaves = tuple({leaf.storage: leaf for leaf in trace.leaves} for trace in (reference, candidate))
        self._ops_unseen = reference.level == "module"
        self.differs: set[int] = set()

    def of(self, reads: Sequence[tuple[Event, Event]]) -> _Behind:
        """What is behind reads of both sides."""
        inside: list[Site] = []
        first: list[Event] = []
        bounds: set[int] = set()
        for events in reads:
            for side, event in enumerate(events):
                calls, begun, paired_calls = walked_back(self._calls[side], self._unpaired[side], event)
                inside += [self._calls[side][index].site for index in calls]
                first += begun if side else []
                bounds |= {self._partner.get(index, -1) if side else index for index in paired_calls}
        leaves = [self._leaves[1].get(event.storage) for event in first]
        known = [leaf for leaf in leaves if leaf is not None]
        return _Behind(
            reads=len(reads),
            follows=bool(bounds & self.differs),
            leaves=tuple(dict.fromkeys(leaf.name for leaf in known)),
            roles=frozenset(leaf.role for leaf in known),
            region=tuple(dict.fromkeys(inside)),
            made=self._made(*reads[0]) if reads else None,
            unseen=self._ops_unseen or None in leaves,
        )

    def _made(self, reference: Event, candidate: Event) -> tuple[Call, Call] | None:
        if reference.producer < 0 or candidate.producer < 0:
            return None
        return self._calls[0][reference.producer], self._calls[1][candidate.producer]


def agrees(found: Localization, alignment: Alignment, *, decided: bool) -> bool:
    """Whether nothing differs, by fingerprint, and nothing is unpaired; ``decided``: and no output's is unknown."""
    statuses = {comparison.status for _, comparison in found.outputs}
    unlike = statuses & ({"differs", "not_compared"} if decided else {"differs"})  # an input given back, say
    unpaired = alignment.unpaired_reference or alignment.unpaired_candidate
    return not (unpaired or unlike or found.origins or found.propagated or found.counts)


def _inside(scope: str, call: Call) -> bool:
    outer = call.site.scope
    return call.kind == "module" and scope != outer and (not outer or scope.startswith(outer + "."))


def _recorded(verdict: bool | None) -> Comparison:
    if verdict is None:
        return Comparison("not_compared", "the fingerprints do not decide")
    return Comparison("agrees" if verdict else "differs", "" if verdict else "it differs; how much was not recorded")
