"""What each origin and the whole difference amount to.

Several origins may have several verdicts; the overall one is the most severe, and every origin keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.case import Case
from whydiff.records import Cause, Origin, Verdict


def judge_origins(case: Case, causes: Sequence[Cause]) -> tuple[Origin, ...]:
    """Origins with their verdicts: that of the confirmed cause which explains them, else their own."""
    judged = []
    for origin in case.localization.origins:
        explaining = [c for c in causes if not c.inert and c.status != "refuted" and explains(c, origin)]
        explaining.sort(key=lambda cause: (cause.status != "confirmed", -cause.verdict.severity))
        verdict = explaining[0].verdict if explaining else _own(origin)
        judged.append(replace(origin, verdict=verdict))
    return tuple(judged)


def explains(cause: Cause, origin: Origin) -> bool:
    """Whether an origin reads what a cause changes, or is the cause's site."""
    targets = {intervention.target for intervention in cause.interventions} | {cause.site}
    return bool(targets & {*origin.leaves, str(origin.site), str(origin.site.at(""))})


def _own(origin: Origin) -> Verdict:
    if origin.kind in ("state", "input", "layout", "arguments"):
        return Verdict.SEMANTIC
    return Verdict.INCONCLUSIVE


def judge(case: Case, origins: Sequence[Origin], causes: Sequence[Cause]) -> tuple[Verdict, str]:
    """The overall verdict and one sentence for it."""
    local = case.localization
    checks = (case.reference.observer, case.candidate.observer)
    if any(check.deterministic is False for check in checks):
        which = " and ".join(
            name for name, check in zip(("the reference", "the candidate"), checks, strict=True)
            if check.deterministic is False
        )  # fmt: skip
        return Verdict.NONDETERMINISTIC, f"{which} does not repeat itself: {checks[0].note or checks[1].note}"
    compared = local.agreeing + local.propagated + len(origins)
    paired = [pair for pair in case.alignment.pairs if case.reference.calls[pair.reference].kind != "return"]
    if not paired or not compared:
        return Verdict.INCOMPARABLE, "nothing corresponds: no call of one run has a counterpart in the other"
    shapes = [slot for slot, comparison in local.outputs if "shape" in comparison.reason]
    differing = [slot for slot, comparison in local.outputs if comparison.status == "differs"]
    if not differing and not origins and not local.propagated:
        left = len(case.alignment.unpaired_reference) + len(case.alignment.unpaired_candidate)
        suffix = f" ({left} unpaired calls changed nothing)" if left else ""
        return Verdict.IDENTICAL, f"zero bits differ in {compared} paired calls{suffix}"
    if shapes and not origins:
        return Verdict.INCOMPARABLE, f"outputs have other shapes: {', '.join(shapes)}"
    if not origins:
        return Verdict.INCONCLUSIVE, "because the outputs differ and no origin was found"
    worst = max(origins, key=lambda origin: origin.verdict.severity)
    reach = "" if differing or not local.outputs else "; it does not reach the outputs"
    return worst.verdict, _reason(worst, origins, causes) + reach


def _reason(worst: Origin, origins: Sequence[Origin], causes: Sequence[Cause]) -> str:
    why = [cause for cause in causes if cause.status == "confirmed" and cause.verdict == worst.verdict]
    count = f"{len(origins)} origin{'s' if len(origins) != 1 else ''}"
    if why:
        return f"{why[0].name} at {why[0].site}, proven by experiment, explains {worst.site.scope or 'the root'}; {count}"
    if worst.verdict is Verdict.INCONCLUSIVE:
        return f"because {count} differ on equal inputs and no experiment tells rounding from a defect yet"
    return f"{worst.site} differs: {worst.evidence[0].statement if worst.evidence else worst.kind}; {count}"
