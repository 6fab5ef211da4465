"""Origins from recorded fingerprints alone, for traces that cannot be replayed."""

from __future__ import annotations

from typing import Any

from whydiff.locate.counts import counted, surplus_of
from whydiff.locate.localization import Localization
from whydiff.pair.lockstep import left_over, paired
from whydiff.pair.replay import returns
from whydiff.records import Alignment, Call, Comparison, Evidence, Growth, Origin, Slot, Verdict


def from_fingerprints(reference: Any, candidate: Any, alignment: Alignment, same: Any) -> Localization:
    """Origins from recorded fingerprints alone, for traces that cannot be replayed.

    A call whose reads agree and whose output differs is an origin; what comes after it is not resynchronised,
    so later origins may be hidden behind earlier ones (counted as propagated). What one call of a pair returns or
    writes more than the other is counted.
    """
    origins: list[Origin] = []
    growth: list[Growth] = []
    outputs: list[tuple[Slot, Comparison]] = []
    numbers = returns(reference.calls)
    agreeing = propagated = undecided = 0
    lone: dict[str, int] = {}
    differing: list[str] = []  # scopes of modules that are origins: the modules around them are not
    for pair in alignment.pairs:
        call_r, call_c = reference.calls[pair.reference], candidate.calls[pair.candidate]
        slot = "reads" if call_r.kind == "return" else "writes"
        surplus = left_over(call_r, call_c, slot)
        if slot == "writes":
            surplus += left_over(call_r, call_c, "reads")
        if surplus:
            lone[str(call_r.site)] = surplus
        written = paired(call_r, call_c, slot)
        verdicts = [same(a, b) for a, b in written]
        if call_r.kind == "return":
            number = numbers[call_r.index]
            outputs += [(Slot(number, a.site.slot), _recorded(v)) for (a, _), v in zip(written, verdicts, strict=True)]
            continue
        growth += [Growth(a.site, _recorded(v)) for (a, _), v in zip(written[:1], verdicts[:1], strict=True)]
        agreeing += bool(verdicts) and all(verdicts)
        if False not in verdicts:
            undecided += None in verdicts
            continue
        reads = [same(a, b) for a, b in paired(call_r, call_c, "reads")]
        if False in reads or any(_inside(scope, call_r) for scope in differing):
            propagated += 1
            continue
        if call_r.kind == "module":
            differing.append(call_r.site.scope)
        origins.append(
            Origin(
                site=call_r.site,
                candidate_site=call_c.site,
                kind="implementation",
                verdict=Verdict.INCONCLUSIVE,
                comparison=_recorded(False),
                calls=(call_r.index, call_c.index),
                leaves=(),
                region=(),
                evidence=(Evidence("its inputs agree and its output differs, by fingerprint; nothing was replayed"),),
            )
        )
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
    return Comparison("agrees" if verdict else "differs", "" if verdict else "other fingerprint; no payload to measure")
