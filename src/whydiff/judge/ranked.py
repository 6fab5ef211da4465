"""Several ranks against one process: what the whole difference amounts to, by these rules, the first that applies.

| when | verdict |
|---|---|
| no output was recorded on both sides | inconclusive |
| what the ranks gave back makes up the reference's outputs bit for bit | identical |
| an output is not made up in float64, or only times a factor | semantic |
| a rank holds, sends or rounds something in a narrower dtype than the reference | precision |
| every output is made up in float64 | rounding |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, get_args

from whydiff.capturing.adapters import Progress, replayable
from whydiff.capturing.store import DiskTrace, RankedTrace
from whydiff.errors import UsageError, attempted
from whydiff.explain.case import Case
from whydiff.explain.causes import detectors, proposed
from whydiff.judge.impact import impact
from whydiff.judge.outputs import Anchor, Compared
from whydiff.locate.localization import Localization
from whydiff.locate.narrowing import narrower
from whydiff.locate.ranked import Ranked, Start, Tie, locate_ranked
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import LOCATED_FIRST
from whydiff.pair.replay import returns
from whydiff.pair.teams import teams
from whydiff.records import Cause, Comparison, Count, Diagnosis, Measurement, Origin, Side, Slot, Status, Verdict

_NO_IMPACT: tuple[Measurement, ...] = ()


def compare_ranked(sides: Sequence[Any], rename: Sequence[tuple[str, str]], progress: Progress | None) -> Diagnosis:
    """Say where and why several ranks part from one process, and whether it matters.

    Args:
        sides: the one process's trace, and the ranks'.
        rename: rules for the ranks' scopes.
        progress: called with (stage, done, total).

    Raises:
        UsageError: the sides are not that, or they cannot be executed again.
    """
    reference, several = sides
    if not isinstance(reference, DiskTrace) or not isinstance(several, RankedTrace):
        raise UsageError(
            "Several ranks are compared with one process.",
            actual=" and ".join("several ranks" if isinstance(s, RankedTrace) else "one process" for s in sides),
            expected="the trace of one process, then the trace of the ranks",
            next_step="rank by rank: whydiff compare a.trace/rank-00000 b.trace/rank-00000",
        )
    if several.missing:
        raise UsageError(
            "A rank's part of the trace is missing.",
            where=several.source,
            actual=f"nothing of rank {', '.join(map(str, several.missing))}",
            expected="the parts of all ranks",
            next_step="Each part can be compared alone.",
        )
    for trace in (reference, *several.parts.values()):
        if why := replayable(trace):
            raise UsageError("A trace cannot be executed again.", where=trace.source, actual=why)
    if progress is not None:
        progress("put the ranks together", 0, 1)
    ranked = locate_ranked(teams(reference, several.parts, rename))
    case = Case(reference, several.lead, ranked.teams.alignment, Localization(), ranked=ranked)
    if progress is not None:
        progress("put the ranks together", 1, 1)
    with closing(case):
        return _diagnosis(case, ranked, several)


def _diagnosis(case: Case, ranked: Ranked, several: RankedTrace) -> Diagnosis:
    outputs = tuple(_outputs(case, ranked))
    differs = any(one.found != "equal" for one in outputs)
    causes = tuple(sorted(_causes(case) if differs else (), key=rank))
    verdict, reason = _verdict(ranked, outputs)
    returned = Anchor(outputs=outputs)
    lead = Side.of(several.lead)
    return Diagnosis(
        verdict=verdict,
        reason=reason,
        origins=tuple(_origin(ranked, start) for start in (*ranked.starts, *ranked.roundings)) if differs else (),
        causes=causes,
        impact=attempted("the impact", lambda: impact(case, returned), _NO_IMPACT),
        outputs=returned.comparisons(),
        growth=(),
        alignment=ranked.teams.alignment,
        sides=(Side.of(case.reference), replace(lead, source=several.source, calls=len(several.calls))),
        environment_changes=case.environment_changes,
        not_compared=tuple(_counts(ranked)),
        notes=(
            f"{len(several.parts)} ranks; their values are put together: what is split along an axis is joined, "
            "terms of a sum are added, replicas must be equal",
        ),
    )


def _causes(case: Case) -> Iterator[Cause]:
    return (cause for rule in detectors() if rule.several_ranks for cause in proposed(rule, case))


def _outputs(case: Case, ranked: Ranked) -> Iterator[Compared]:
    """Every value that both gave back, put together."""
    ours, theirs = case.together.reference(), case.together.candidate()
    relations = dict(_returned(ranked))
    for slot, reference in ours.items():
        candidate, relation = theirs.get(slot), relations.get(slot)
        if slot not in relations:
            yield Compared(slot, "lone", Comparison("not_compared", "no rank gives it back", only="reference"))
        elif candidate is None:
            reason = "the ranks' values are no parts, terms or replicas of it"
            yield Compared(slot, "values", Comparison("differs", reason))
        else:
            comparison = compare_payloads(reference, candidate)
            agrees = comparison.status == "agrees" and relation is not None and relation.relation is not None
            yield Compared(slot, "equal" if agrees else "values", comparison, numbers=(reference, candidate))


def _returned(ranked: Ranked) -> Iterator[tuple[Slot, Tie]]:
    number = returns(ranked.teams.reference.calls)
    for one in ranked.seen:
        if one.team.reference in number:
            for tie in one.reads:
                yield Slot(number[one.team.reference], tie.shared.reference.site.slot), tie


def _verdict(ranked: Ranked, outputs: Sequence[Compared]) -> tuple[Verdict, str]:
    compared = [one for one in outputs if one.found != "lone"]
    if ranked.teams.unmatched:
        return Verdict.INCONCLUSIVE, f"because {ranked.teams.unmatched}"
    if not compared:
        return Verdict.INCONCLUSIVE, "because no output was recorded on both sides"
    if all(one.found == "equal" for one in outputs):
        return Verdict.IDENTICAL, "because what the ranks gave back makes up every output bit for bit"
    ties = dict(_returned(ranked))
    for slot, tie in ties.items():
        if tie.relation is None:
            return Verdict.SEMANTIC, f"because in float64, too, what the ranks give back does not make up {slot}"
        if tie.relation.scale != 1 and tie.relation.layout != "partial":
            return Verdict.SEMANTIC, f"because {slot} is what the ranks give back times {tie.relation.scale:g}"
    narrow = next(narrower(ranked), None)
    if narrow is not None:
        return Verdict.PRECISION, f"because the ranks compute the same, and {narrow} in a narrower dtype"
    if any(one.found == "lone" for one in outputs):
        return Verdict.INCONCLUSIVE, "because no rank gives back what the reference does in some places"
    return Verdict.ROUNDING, "because in float64 what the ranks give back makes up every output"


def _origin(ranked: Ranked, start: Start) -> Origin:
    shared, seen = start.tie.shared, start.seen
    ours, theirs = ranked.teams.calls(seen.team)
    lead = theirs[min(theirs)]
    makes = shared.reference.producer if start.tie.slot == "reads" and shared.reference.producer >= 0 else ours.index
    candidate = start.exchange or lead
    how = str(start.tie.relation) if start.tie.relation is not None else "no parts, terms or replicas of it"
    comparison = Comparison("differs", f"the ranks' values are {how}" if start.exact else "the bits differ")
    return Origin(
        site=ranked.teams.reference.calls[makes].site,
        candidate_site=candidate.site,
        kind="state" if start.leaf else "region" if start.exchange is not None else "implementation",
        verdict=Verdict.SEMANTIC if start.exact else Verdict.ROUNDING,
        comparison=comparison,
        calls=(makes, candidate.index),
        leaves=(start.leaf,) if start.leaf else (),
    )


def _counts(ranked: Ranked) -> Iterator[Count]:
    teams = ranked.teams
    if teams.unmatched:
        yield Count("passes of the stages", teams.unmatched, len(teams.ranks), code="stages")
    lone = teams.alignment.unpaired_reference
    if lone:
        some = tuple(str(teams.reference.calls[i].site) for i in lone[:3])
        yield Count(what="calls of the reference", reason="no rank has a counterpart", count=len(lone), examples=some)
    if ranked.unrelated:
        yield Count("values", "more than is held in memory at once", ranked.unrelated)
    reasons: dict[str, list[str]] = {}
    for _, call, why in ranked.together.failed:
        reasons.setdefault(why, []).append(str(call.site))
    for why, sites in reasons.items():
        yield Count(what="calls of the ranks", reason=why, count=len(sites), examples=tuple(sites[:3]))
    for rank, told in (ranked.together.stuck or {}).items():
        yield Count("calls of the ranks", f"rank {rank} waits for others at {told}", 1)


def rank(cause: Cause) -> tuple[Any, ...]:
    """By the effect on the outputs; what was proven goes before a place that does not move them much more."""
    status = get_args(Status).index(cause.status)
    if cause.status not in ("confirmed", "located"):
        return (cause.inert, 1 + status, -cause.size, cause.code, cause.site)
    size = cause.size * (LOCATED_FIRST if cause.status == "confirmed" else 1.0)
    return (cause.inert, 0, -size, status, cause.code, cause.site)
