"""Proof: rerun under the intervention, and confirm only if the difference falls as predicted.

With several causes the set is removed together and each one's own effect is measured twice: *leave one out*
(all but this one act) and *one in* (only this one acts). Effects are not additive, so no shares are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.capturing.adapters import Progress
from whydiff.errors import WhydiffError, guarded
from whydiff.explain.case import Case
from whydiff.explain.experiments import Outcome
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Cause, Experiment, Intervention, Measurement, Origin, Status, Verdict

_PREDICTION = "outputs equal the reference's bit for bit"


def verify(case: Case, causes: Sequence[Cause], progress: Progress | None = None) -> tuple[Cause, ...]:
    """Run every cause's experiment.

    Returns:
        The causes with status, experiments, effect and the inert flag set, in the given order.
    """
    done, together = list(causes), _Together(case)
    testable = []
    for number, cause in enumerate(causes):
        if not cause.interventions or not case.experiments.supports(cause.interventions):
            done[number] = _untested(case, cause)
        elif why := _failed(case, cause):
            done[number] = replace(cause, reason=f"the experiment failed: {why}")
        else:
            together.add(cause)
            testable.append(number)
    for count, number in enumerate(testable):
        if progress is not None:
            progress("verify causes", count, len(testable))
        cause = causes[number]
        with guarded(f"the experiment of {cause.code} at {cause.site}") as guard:
            done[number] = _verified(case, cause, together.with_(cause))
        if guard.error:
            done[number] = replace(cause, reason=f"the experiment failed: {guard.error}")
    if progress is not None:
        progress("verify causes", len(testable), len(testable))
    return tuple(done)


class _Together:
    """Causes that can be removed in one experiment; one that cannot join them is tried alone."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.causes: list[Cause] = []

    def add(self, cause: Cause) -> None:
        if self.case.experiments.supports(_merged([*self.causes, cause])):
            self.causes.append(cause)

    def with_(self, cause: Cause) -> tuple[Intervention, ...]:
        return _merged(self.causes if cause in self.causes else [cause])


def _failed(case: Case, cause: Cause) -> str:
    """Why an experiment cannot be carried out; empty if it can. One that fails must not spoil the others'."""
    with guarded(f"the experiment of {cause.code} at {cause.site}") as guard:
        try:
            return case.experiments.try_out(cause.interventions).failed
        except WhydiffError as error:
            return f"{error.what} {error.actual}".strip()
    return guard.error


def _untested(case: Case, cause: Cause) -> Cause:
    if cause.reason or cause.status != "inconclusive":
        return cause
    reason = "no intervention is known for it"
    if cause.interventions:
        reason = "its intervention needs a live run: " + ", ".join(map(str, cause.interventions))
    return replace(cause, reason=reason)


def _verified(case: Case, cause: Cause, everything: tuple[Intervention, ...]) -> Cause:
    others = tuple(i for i in everything if i not in cause.interventions)
    try:
        before = case.experiments.try_out(())
        only_this_acts = case.experiments.try_out(others)
        all_removed = case.experiments.try_out(everything)
        this_removed = case.experiments.try_out(cause.interventions)
    except WhydiffError as error:
        return replace(cause, reason=f"the experiment failed: {error.what} {error.actual}".strip())
    failed = before.failed or only_this_acts.failed or all_removed.failed or this_removed.failed
    if failed:
        return replace(cause, reason=f"the experiment failed: {failed}")
    effect = (
        Measurement("one_in", only_this_acts.mean_abs or 0.0, "output elements"),
        Measurement("leave_one_out", this_removed.mean_abs or 0.0, "output elements"),
    )
    if not before.comparisons:  # a capture of a block, which returns nothing: the origins must do
        return _partly(case, cause, before, this_removed, effect)
    inert = _same(only_this_acts, all_removed) and _same(this_removed, before)
    if inert:
        return replace(
            cause,
            inert=True,
            status="refuted",
            effect=effect,
            reason="it differs but changes nothing on this input",
            experiments=(_experiment(cause.interventions, "outputs change", before, this_removed, "refuted"),),
        )
    rounding = "" if this_removed.equal or not cause.interventions else _rounding_left(case, cause)
    if rounding:
        change = f"mean absolute difference {before.mean_abs:.3e} before, {this_removed.mean_abs:.3e} after"
        outcome = f"{rounding} ({change})"
        experiment = Experiment(
            cause.interventions,
            "only rounding is left",
            outcome,
            "confirmed",
            this_removed.method,
            before.mean_abs,
            this_removed.mean_abs,
        )
        return replace(cause, status="confirmed", reason="", effect=effect, experiments=(experiment,))
    if this_removed.equal:
        experiment = _experiment(cause.interventions, _PREDICTION, before, this_removed, "confirmed")
        return replace(cause, status="confirmed", reason="", effect=effect, experiments=(experiment,))
    if all_removed.equal:
        experiments = [_experiment(everything, _PREDICTION, before, all_removed, "confirmed")]
        if others:
            experiments.append(
                _experiment(
                    others,
                    "outputs still differ while this cause acts alone",
                    before,
                    only_this_acts,
                    "refuted" if only_this_acts.equal else "confirmed",
                )
            )
        status: Status = "refuted" if only_this_acts.equal else "confirmed"
        reason = "" if status == "confirmed" else "the outputs agree without removing it"
        return replace(cause, status=status, reason=reason, effect=effect, experiments=tuple(experiments))
    return _partly(case, cause, before, this_removed, effect)


def _rounding_left(case: Case, cause: Cause) -> str:
    """The sentence that only rounding is left when a cause is removed; empty if more is, or if it cannot be told."""
    if cause.verdict is not Verdict.SEMANTIC:
        return ""
    before, after = case.experiments.apart_in_float64(()), case.experiments.apart_in_float64(cause.interventions)
    if before is None or after is None or not after <= SCALING_FLOOR < before:
        return ""
    return f"lifted to float64 the outputs lie {after:.1e} of their size apart, and {before:.1e} before"


def _partly(case: Case, cause: Cause, before: Outcome, after: Outcome, effect: tuple[Measurement, ...]) -> Cause:
    """Other, unexplained origins remain: confirmed only if its own origins vanish when it is removed."""
    broken = _other_function(case, cause)
    if broken:
        experiment = Experiment(
            cause.interventions,
            "the programs still agree in float64",
            broken,
            "refuted",
            "replay",
            before.mean_abs,
            after.mean_abs,
        )
        return replace(cause, status="refuted", reason=broken, effect=effect, experiments=(experiment,))
    mine = {str(o.site) for o in case.localization.origins if _claims(cause, o)}
    left = case.experiments.origins_after(cause.interventions)
    if mine and left is not None:
        gone = mine - left
        status: Status = "confirmed" if gone == mine else "refuted" if not gone else "inconclusive"
        experiment = Experiment(
            cause.interventions,
            "its origins vanish",
            f"{len(gone)} of {len(mine)} origins vanish"
            + ("; others remain, so the outputs still differ" if before.comparisons else "; no outputs were recorded"),
            status,
            "replay",
            before.mean_abs,
            after.mean_abs,
        )
        return replace(cause, status=status, effect=effect, experiments=(experiment,))
    if not before.comparisons:
        return replace(cause, reason="no outputs were recorded, and its origins cannot be told from the others")
    experiment = _experiment(cause.interventions, _PREDICTION, before, after, "inconclusive")
    return replace(
        cause,
        effect=effect,
        experiments=(experiment,),
        reason="removing it does not make the outputs equal, and its origins cannot be told from the others",
    )


def _other_function(case: Case, cause: Cause) -> str:
    """That removing a cause of rounding makes another function of a program that agreed; empty if it does not."""
    if cause.verdict is not Verdict.ROUNDING or not cause.interventions:
        return ""
    before, after = case.experiments.apart_in_float64(()), case.experiments.apart_in_float64(cause.interventions)
    if before is None or after is None or not before <= SCALING_FLOOR < after:
        return ""
    return f"without it the outputs lie {after:.1e} of their size apart in float64, and {before:.1e} before"


def _claims(cause: Cause, origin: Origin) -> bool:
    """Whether an origin reads what a cause changes, or is where it changes something."""
    targets = _targets(cause)
    here = {str(origin.candidate_site), str(origin.candidate_site.at(""))}
    return bool(targets & {*origin.leaves, *here}) or any(t.startswith(f"{s}.") for t in targets for s in here)


def _targets(cause: Cause) -> set[str]:
    return {intervention.target for intervention in cause.interventions}


def _merged(causes: Sequence[Cause]) -> tuple[Intervention, ...]:
    return tuple(dict.fromkeys(i for cause in causes for i in cause.interventions))


def _same(one: Outcome, other: Outcome) -> bool:
    return one.equal == other.equal and one.mean_abs == other.mean_abs and one.comparisons == other.comparisons


def _experiment(
    interventions: tuple[Intervention, ...], prediction: str, before: Outcome, after: Outcome, status: Status
) -> Experiment:
    if after.equal:
        outcome = f"bit-equal: 0 of {after.elements} output elements differ"
    else:
        change = f"(mean absolute difference {before.mean_abs:.3e} before, {after.mean_abs:.3e} after)"
        outcome = f"outputs differ {change}"
    return Experiment(interventions, prediction, outcome, status, after.method, before.mean_abs, after.mean_abs)
