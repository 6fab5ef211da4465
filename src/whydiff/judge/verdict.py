"""What each origin and the whole difference amount to (``docs/explanation/verdict-engine.md``).

In this order: NaN or infinity on one side only, then a cause confirmed by experiment, then what the scaling
test and, between kernels of one op, the local test measured. An experiment proves what makes the bits differ, not
that the difference is a defect: a cause that computes another function must show in float64 (`weighed`). Several
origins may have several verdicts; the overall one is the most severe, and every origin keeps its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.errors import PayloadError
from whydiff.explain.alike import alike
from whydiff.explain.case import Case
from whydiff.explain.read_alike import cast_of, given_back, told_apart
from whydiff.explain.rounded_numbers import all_given_back, only_rounded, rounded_numbers
from whydiff.explain.scale import agrees, stays
from whydiff.explain.scaling import Modes, Scaling
from whydiff.judge.as_run import special_numbers
from whydiff.judge.claims import Claims
from whydiff.judge.each_origin import lost_digits
from whydiff.judge.weighing import folded
from whydiff.numbers.tolerance import CANCELLED_SHARE, PRECISION_CLASS_RATIO, SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Cause, Intervention, Origin, Verdict, has_ops
from whydiff.records.finding import NOT_MADE_OF

_UNDECIDED = (Verdict.ROUNDING, Verdict.PRECISION, Verdict.INCONCLUSIVE)
_NAMED = 4
_GIVEN = ("input", "constant", "attribute")


def judge(
    case: Case, origins: Sequence[Origin], causes: Sequence[Cause], scaling: Scaling | None = None
) -> tuple[Verdict, str]:
    """The overall verdict and one sentence for it."""
    local = case.localization
    checks = (case.reference.observer, case.candidate.observer)
    if any(check.deterministic is False for check in checks):
        which = " and ".join(
            name
            for name, check in zip(("the reference", "the candidate"), checks, strict=True)
            if check.deterministic is False
        )
        return Verdict.NONDETERMINISTIC, f"{which} does not repeat itself: {checks[0].note or checks[1].note}"
    broken = [str(slot) for slot, comparison in local.outputs if special_numbers(comparison)]
    compared = local.agreeing + local.propagated + len(origins)
    numeric = [pair for pair in case.alignment.pairs if case.reference.calls[pair.reference].kind != "return"]
    if not numeric or not compared:
        alone = _nothing_paired(case, origins, causes, scaling, broken)
        if alone is not None:
            return alone
    shapes = [str(slot) for slot, comparison in local.outputs if comparison.other_shape]
    differing = [str(slot) for slot, comparison in local.outputs if comparison.status == "differs"]
    if local.silent and not differing and origins:
        return Verdict.IDENTICAL, f"zero bits differ in the outputs; {local.silent}"
    no_counterpart = sum(count.count for count in local.counts if count.code == "no counterpart")
    if not differing and not origins and local.propagated <= no_counterpart:
        names = ("reference", "candidate")
        unseen = [name for name, check in zip(names, checks, strict=True) if check.unchanged is False]
        if unseen:
            return _unseen(unseen, causes)
        left = len(case.alignment.unpaired_reference) + len(case.alignment.unpaired_candidate)
        suffix = f" ({left} unpaired calls changed nothing)" if left else ""
        if no_counterpart:
            suffix += f"; {no_counterpart} values have no counterpart and reach no output"
        cut = [name for name, t in (("reference", case.reference), ("candidate", case.candidate)) if not t.complete]
        if cut:
            return Verdict.INCONCLUSIVE, (
                f"because the {' and the '.join(cut)} ended early; zero bits differ in the {compared} calls until then"
            )
        return Verdict.IDENTICAL, f"zero bits differ in {compared} paired calls{suffix}"
    acting = [one for one in origins if local.silent or one.verdict is not Verdict.IDENTICAL]
    without_effect, origins = len(acting) < len(origins), acting
    if shapes and not origins:
        return Verdict.INCOMPARABLE, f"outputs have other shapes: {', '.join(shapes)}"
    numbers = _numbers(scaling)
    if broken and not any(origin.verdict is Verdict.UNSTABLE for origin in origins):
        return Verdict.UNSTABLE, f"NaN or infinity on one side only in {', '.join(broken)}{numbers}"
    proven = [cause for cause in causes if cause.status == "confirmed" and not cause.inert]
    apart = [cause for cause in proven if cause.verdict is Verdict.INCOMPARABLE]
    if apart and len(apart) == len(proven):  # a cause that computes another function says more
        return Verdict.INCOMPARABLE, f"{apart[0].name} at {apart[0].site}, proven by experiment{numbers}"
    if not origins:
        return _none_acts(scaling, differing) if without_effect else _without_origins(scaling, numbers)
    worst = max(origins, key=lambda origin: origin.verdict.severity)
    unstable = _of_numbers(case, origins, causes, worst, scaling)
    if unstable:
        return Verdict.UNSTABLE, unstable + numbers
    unreached = bool(local.outputs) and all(comparison.status == "agrees" for _, comparison in local.outputs)
    reach = "; it does not reach the outputs" if unreached else ""
    stored = folded(case, scaling)
    if stored is not None and worst.verdict is Verdict.ROUNDING:
        return Verdict.ROUNDING, f"{stored.statement}; {len(origins)} places, the first at {worst.site}{numbers}"
    of_state = _of_state(case, scaling) if worst.verdict in _UNDECIDED else None
    if of_state is not None:
        verdict, why = of_state
        more = "" if verdict is Verdict.SEMANTIC else f"; {_reason(replace(worst, verdict=verdict), origins, causes)}"
        return verdict, f"{why}{more}{numbers}{reach}"
    contradiction = worst.verdict is Verdict.ROUNDING and scaling is not None and stays(scaling.program.lifted)
    flips = sum(count.count for count in scaling.counts if count.code == "flip") if scaling else 0
    missed = _missed(case, proven, scaling, flips) if worst.verdict is Verdict.PRECISION else ""
    if missed:
        return Verdict.SEMANTIC, missed + numbers
    if contradiction:
        why = f"; {flips} discrete choices flip" if flips else ""
        return Verdict.INCONCLUSIVE, (
            f"because every place is rounding and the outputs' difference does not shrink{numbers}{why}"
        )
    apart_from_them = _nowhere_its_own(origins, proven, worst, scaling)
    if apart_from_them is not None:
        return apart_from_them.verdict, _reason(
            replace(worst, verdict=apart_from_them.verdict), origins, causes
        ) + numbers
    if worst.verdict is Verdict.INCONCLUSIVE and _only_as_a_whole(scaling):
        return Verdict.SEMANTIC, (
            f"the outputs differ at any precision, which could be measured at none of the {len(origins)} places{numbers}"
        )
    return worst.verdict, _reason(worst, origins, causes) + numbers + reach


def _nothing_paired(
    case: Case, origins: Sequence[Origin], causes: Sequence[Cause], scaling: Scaling | None, broken: Sequence[str]
) -> tuple[Verdict, str] | None:
    """The verdict where no call has a counterpart; None: the runs are counterparts as wholes, judged like others."""
    if broken:
        return Verdict.UNSTABLE, f"NaN or infinity on one side only in {', '.join(broken)}{_numbers(scaling)}"
    if scaling is not None and agrees(scaling.program.lifted):
        return _without_origins(scaling, _numbers(scaling))  # no op in common, and the same function
    whole = [cause for cause in causes if cause.status == "confirmed" and not cause.inert and _is_all(cause)]
    if whole:
        worst = max(whole, key=lambda cause: cause.verdict.severity)
        return worst.verdict, f"{worst.name} at {worst.site}, proven by experiment; no call has a counterpart"
    if silent := _unobserved(case):
        return Verdict.INCONCLUSIVE, f"because no call of the {silent} was observed"
    alike = _same_task(case)
    if scaling is not None and scaling.program.lifted is None and alike:
        return Verdict.INCONCLUSIVE, (
            "because no call of one run has a counterpart in the other, and they cannot be carried out in float64"
        )
    if scaling is None or not origins or not (alike and stays(scaling.program.lifted)):
        return Verdict.INCOMPARABLE, "nothing corresponds: no call of one run has a counterpart in the other"
    return None


def _is_all(cause: Cause) -> bool:
    """Whether nothing is left of the outputs' difference when a cause is changed, in either direction."""
    return bool(cause.experiments) and all(one.left in ("nothing", "rounding") for one in cause.experiments)


def _unobserved(case: Case) -> str:
    """Sides of which no op was recorded."""
    sides = (("reference", case.reference), ("candidate", case.candidate))
    return " and the ".join(name for name, trace in sides if not has_ops(trace))


def _of_state(case: Case, scaling: Scaling | None) -> tuple[Verdict, str] | None:
    """The verdict where with the other side's state and inputs all agrees in float64: are they roundings? None: not so."""
    if scaling is None or not (stays(scaling.program.lifted) and agrees(scaling.program.restored)):
        return None
    if only_rounded(case):
        return Verdict.PRECISION, (
            f"{_what_is_rounded(case)} are the other side's, rounded, and with the reference's the outputs agree in float64"
        )
    try:
        roundings = [pair for pair in told_apart(case) if cast_of(case, *pair) is not None]
    except PayloadError:
        return None
    apart = case.experiments.apart_if_told(all_given_back(case, roundings)) if roundings else None
    if apart is None or apart <= SCALING_FLOOR:
        return None
    other = ", ".join([theirs.name for ours, theirs in told_apart(case) if (ours, theirs) not in roundings][:_NAMED])
    return (
        Verdict.SEMANTIC,
        f"{other}: not the other side's, rounded; with the rest alone given back the outputs differ",
    )


def _what_is_rounded(case: Case) -> str:
    held = ["state and inputs"] if told_apart(case) else []
    return " and ".join(held + (["numbers in the code"] if rounded_numbers(case) else []))


def _missed(case: Case, proven: Sequence[Cause], scaling: Scaling | None, flips: int) -> str:
    """How the outputs show that a place was missed, where all that were found are precision; empty: they do not."""
    if scaling is None or not stays(scaling.program.lifted):
        return ""
    numbers = alike(case).examined if scaling.alone else range(len(scaling.origins))
    if numbers and not flips and all(agrees(scaling.origins[number].lifted) for number in numbers):
        places = len(scaling.origins)
        return f"the outputs differ at any precision, which none of the {places} places does: one was missed"
    alike_now = len(given_back(case)) == len(told_apart(case)) and not any(case.lone_leaves())
    if alike_now and stays(scaling.program.restored) and not any(map(_is_all, proven)):
        return "with the reference's state and inputs, too, the outputs differ at any precision"
    return ""


def _nowhere_its_own(
    origins: Sequence[Origin], proven: Sequence[Cause], worst: Origin, scaling: Scaling | None
) -> Cause | None:
    """The first proven cause that is worse than every origin, none of which is its place, if the outputs differ in float64."""
    if scaling is None or not stays(scaling.program.lifted):
        return None
    worse = [
        cause
        for cause in proven
        if cause.verdict is Verdict.SEMANTIC and worst.verdict.severity < cause.verdict.severity
    ]
    return next((cause for cause in worse if not any(map(Claims.of(cause).holds, origins))), None)


def _of_numbers(
    case: Case, origins: Sequence[Origin], causes: Sequence[Cause], worst: Origin, scaling: Scaling | None
) -> str:
    """Why the numbers of one run do not hold what it computes, where no place says so; empty: they do."""
    lost = scaling.cancelled if scaling is not None else None
    if lost is not None and worst.verdict in (Verdict.ROUNDING, Verdict.UNSTABLE):
        return f"{lost_digits(lost)}; {len(origins)} places, the first at {worst.site}"
    hidden = [one for one in causes if one.verdict is Verdict.UNSTABLE and one.status in ("confirmed", "located")]
    if not hidden or hidden[0].inert or worst.verdict not in _UNDECIDED or not _coarse(case):
        return ""
    if not _responsible(case, hidden[0], scaling):
        return ""
    return (
        f"{hidden[0].name} at {hidden[0].site}, shown by experiment, and more than half of the outputs' digits are lost"
    )


def _responsible(case: Case, hidden: Cause, scaling: Scaling | None) -> bool:
    """Whether the outputs agree in float64, where it does not overflow, if need be with the reference's op in its place.

    What hides an overflow by the limits of the narrow dtype is another number in the code, and cuts in float64 too. What
    is left beside it is another function, which no overflow explains.
    """
    if scaling is not None and agrees(scaling.program.lifted):
        return True
    sites = {str(site): call for call in case.candidate.calls for site in (call.site, *(e.site for e in call.writes))}
    call = sites.get(hidden.site)
    pair = next((pair for pair in case.alignment.pairs if call is not None and pair.candidate == call.index), None)
    if call is None or pair is None:
        return False
    put = Intervention("replace-op", str(call.site), str(case.reference.calls[pair.reference].site))
    plain, left = (case.experiments.apart_if_told(items) for items in ((), (put,)))
    return plain is not None and left is not None and left * PRECISION_CLASS_RATIO < plain


def _coarse(case: Case) -> bool:
    """Whether an output has lost more than half of the digits of the candidate's narrowest dtype: rounding takes fewer."""
    units = [UNIT_ROUNDOFF.get(e.spec.dtype, 0.0) for call in case.candidate.calls for e in call.writes]
    apart = [comparison.value("rel_l2") or 0.0 for _, comparison in case.localization.outputs]
    return bool(max(apart, default=0.0) > max(units, default=0.0) ** CANCELLED_SHARE)


def _only_as_a_whole(scaling: Scaling | None) -> bool:
    """Whether all was lifted, no choice flips, and the outputs' difference stays, while no origin's could be measured.

    Origins that hold no numbers that round (keys, counts), or values of other shapes, are such.
    """
    if scaling is None or scaling.counts or any(modes.lifted is not None for modes in scaling.origins):
        return False
    return stays(scaling.program.lifted)


def _same_task(case: Case) -> bool:
    """Whether runs without a common op are counterparts as wholes: the same inputs, outputs of the same shapes.

    Equal tensors that the programs captured count as inputs, whether they are arguments, constants or attributes of
    what was called; values that only one side reads do not matter (a formula may need fewer).
    """
    if not case.localization.outputs or any(comparison.other_shape for _, comparison in case.localization.outputs):
        return False
    read = [
        {
            (leaf.spec.shape, leaf.fingerprint)
            for leaf in trace.leaves
            if leaf.storage >= 0 and leaf.fingerprint is not None and leaf.role in _GIVEN
        }
        for trace in case.traces
    ]
    return bool(read[0] & read[1])


def _unseen(sides: Sequence[str], causes: Sequence[Cause]) -> tuple[Verdict, str]:
    """Nothing differs in what was observed, but observing changed a run: the difference is not in the ops."""
    proven = [cause for cause in causes if cause.status == "confirmed" and not cause.inert]
    what = f"the ops agree bit for bit, and observing them changed the {' and the '.join(sides)}"
    if proven:
        worst = max(proven, key=lambda cause: cause.verdict.severity)
        return worst.verdict, f"{worst.name} at {worst.site}, proven by experiment; {what}"
    return Verdict.INCONCLUSIVE, f"because {what}: the plain runs may differ"


def _none_acts(scaling: Scaling | None, differing: Sequence[str]) -> tuple[Verdict, str]:
    """The verdict where each place that was found is shown to change no output."""
    if not differing:
        return Verdict.IDENTICAL, "zero bits differ in the outputs; what differs inside changes none of them"
    if scaling is not None and stays(scaling.program.lifted):
        return _without_origins(scaling, _numbers(scaling))
    return Verdict.INCONCLUSIVE, "because the outputs differ, and no place that was found changes them: one was missed"


def _without_origins(scaling: Scaling | None, numbers: str) -> tuple[Verdict, str]:
    program = scaling.program if scaling else Modes()
    if stays(program.lifted):
        return Verdict.SEMANTIC, f"the outputs differ at any precision, and no place was found{numbers}"
    if agrees(program.lifted):
        verdict = Verdict.PRECISION if stays(program.kept) else Verdict.ROUNDING
        return verdict, f"no op corresponds one to one, and the outputs agree in float64{numbers}"
    return Verdict.INCONCLUSIVE, "because the outputs differ and no place was found"


def _numbers(scaling: Scaling | None) -> str:
    """The measured numbers of the outputs, as the end of a sentence."""
    if scaling is None or scaling.program.lifted is None:
        return ""
    text = f"; {scaling.program.lifted}"
    if scaling.program.restored is not None:
        text += f" (with the reference's state and inputs: {scaling.program.restored})"
    if stays(scaling.program.kept):
        text += f" (with the program's own casts: {scaling.program.kept})"
    return text


def _reason(worst: Origin, origins: Sequence[Origin], causes: Sequence[Cause]) -> str:
    why = [cause for cause in causes if cause.status == "confirmed" and cause.verdict == worst.verdict]
    count = f"{len(origins)} place{'s' if len(origins) != 1 else ''}"
    if why:
        claims = Claims.of(why[0])
        mine = sum(map(claims.holds, origins))
        every = f"explains {mine} of {count}" if mine else f"is why, and none of {count} is its own place"
        return f"{why[0].name} at {why[0].site}, proven by experiment, {every}"
    unmade = next((one.statement for one in worst.evidence if NOT_MADE_OF in one.data), "")
    if worst.verdict is Verdict.INCONCLUSIVE and unmade:
        return f"because {unmade}; {count}"
    if worst.verdict is Verdict.INCONCLUSIVE:
        return f"because {count} differ on equal inputs and no test tells rounding from a defect"
    if worst.verdict is Verdict.ROUNDING:
        return f"{count} of the same function, computed in another order, the first at {worst.site}"
    return f"{worst.site} differs: {worst.evidence[0].statement if worst.evidence else worst.kind}; {count}"
