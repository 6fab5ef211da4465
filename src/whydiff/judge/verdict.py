"""What each origin and the whole difference amount to (``docs/explanation/verdict-engine.md``).

In this order: NaN or infinity on one side only, then a cause confirmed by experiment, then what the scaling
test and, between kernels of one op, the local test measured. An experiment proves what makes the bits differ, not
that the difference is a defect: a cause that computes another function must show in float64 (`weighed`). Several
origins may have several verdicts; the overall one is the most severe, and every origin keeps its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from whydiff.errors import PayloadError, WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes import is_general
from whydiff.explain.local_test import LocalResult
from whydiff.explain.scale import Scale
from whydiff.explain.scaling import Modes, Scaling
from whydiff.judge.folding import folded
from whydiff.numbers.casts import proven_cast
from whydiff.numbers.tolerance import CANCELLED_SHARE, CAST_ARTEFACT, SCALING_FLOOR, UNIT_ROUNDOFF, Cancelled
from whydiff.records import Cause, Comparison, Evidence, Origin, Verdict

_PRECISION_FLAGS = ("matmul_precision", "cuda_tf32", "cudnn_tf32", "fp16_reduction", "bf16_reduction")
_GIVEN = ("input", "constant", "attribute")
_SPECIAL = ("nan_mismatch", "inf_mismatch")


def needs_local_test(case: Case, scaling: Scaling | None) -> bool:
    """Whether some origin is the same op on equal inputs, or was left open by the scaling test."""
    origins = case.localization.origins
    if any(origin.kind == "implementation" or _cancels(case, origin) for origin in origins):
        return True
    return scaling is not None and any(
        origin.kind not in ("state", "input") and (modes.lifted is None or modes.lifted.nature in ("equal", "between"))
        for origin, modes in zip(origins, scaling.origins, strict=True)
    )


def _cancels(case: Case, origin: Origin) -> bool:
    """Whether two formulas lie so far apart that rounding alone would be a loss of more than half of the digits."""
    apart = origin.comparison.value("rel_l2")
    call = origin.calls[0]
    if origin.kind not in ("region", "layout", "arguments") or apart is None or call < 0:
        return False
    units = [UNIT_ROUNDOFF[e.spec.dtype] for e in case.reference.calls[call].writes if e.spec.dtype in UNIT_ROUNDOFF]
    return bool(units) and apart > max(units) ** CANCELLED_SHARE


def weighed(case: Case, causes: Sequence[Cause], scaling: Scaling | None) -> tuple[Cause, ...]:
    """Causes whose removal makes the bits equal, held against float64.

    A confirmed cause that claims another function is none where the programs compute the same without rounding:
    if the difference stays with the recorded casts, it is one of precision; else the cause chooses another way to
    the same values. It explains the bits, and is no defect.

    A general cause, which says where another function is computed but not by which mistake, stays inconclusive
    while a named one of the same verdict could not be tried: it may be that one's effect.

    Args:
        case: the pair of runs.
        causes: after `whydiff.judge.verify.verify`.
        scaling: from `whydiff.explain.scaling.measure_scaling`; None: nothing differs.
    """
    program = scaling.program if scaling else Modes()
    acting = [c for c in causes if c.status == "confirmed" and not c.inert]
    stored = None if _agrees(program.lifted) else folded(case, scaling)
    one_function = _agrees(program.lifted) or stored is not None
    no_defect = "in float64 the outputs agree with it too, so it chooses another way to the same values"
    if stored is not None:
        no_defect = stored.statement
    found = []
    for cause in causes:
        claims = cause in acting and cause.verdict is Verdict.SEMANTIC
        if claims and one_function and _stays(program.kept):
            cause = replace(cause, verdict=Verdict.PRECISION)
        elif claims and (one_function or _harmless(case, cause, acting)):
            cause = replace(
                cause,
                verdict=Verdict.ROUNDING,
                status="inconclusive",
                reason=f"it explains the bits, which agree when it is removed, and is no defect: {no_defect}",
            )
        found.append(cause)
    return held_back(found)


def held_back(causes: Sequence[Cause]) -> tuple[Cause, ...]:
    """Causes in which no general one is confirmed while a named one of another function could not be tried."""
    found = []
    untried = [
        c
        for c in causes
        if c.status == "inconclusive"
        and not c.inert
        and not c.experiments
        and c.verdict is Verdict.SEMANTIC
        and not is_general(c.code)
    ]
    for cause in causes:
        other_function = cause.status == "confirmed" and cause.verdict is Verdict.SEMANTIC
        if untried and other_function and is_general(cause.code):
            named = ", ".join(f"{c.code} {c.name} at {c.site}" for c in untried[:3])
            reason = f"its experiment holds, and it may be the effect of {named}, which could not be tried"
            cause = replace(cause, status="inconclusive", reason=reason)
        found.append(cause)
    return tuple(found)


def _harmless(case: Case, cause: Cause, acting: Sequence[Cause]) -> bool:
    """Whether the outputs agree in float64 while this cause acts alone and all other proven ones are removed."""
    others = dict.fromkeys(
        i for one in acting if one is not cause for i in one.interventions if i not in cause.interventions
    )
    if not others:
        return False
    try:
        apart = case.experiments.apart_in_float64(tuple(others))
    except WhydiffError:
        return False  # it cannot be told: the experiment stands
    return apart is not None and apart <= SCALING_FLOOR


def judge_origins(
    case: Case, causes: Sequence[Cause], scaling: Scaling | None = None, local: Mapping[int, LocalResult] | None = None
) -> tuple[Origin, ...]:
    """Origins with their verdicts and the evidence for them.

    Args:
        case: with the origins in ``localization``.
        causes: after `whydiff.judge.verify.verify`.
        scaling: from `whydiff.explain.scaling.measure_scaling`; None: not measured.
        local: from `whydiff.explain.local_test.examine`, by position; None: not tested.
    """
    scaling = scaling or Scaling(origins=(Modes(),) * len(case.localization.origins), why_not="it was not run")
    stored = folded(case, scaling)
    judged = []
    for index, (origin, modes) in enumerate(zip(case.localization.origins, scaling.origins, strict=True)):
        if case.localization.silent:
            silent = Evidence(case.localization.silent)
            judged.append(replace(origin, verdict=Verdict.IDENTICAL, evidence=(*origin.evidence, silent)))
            continue
        verdict, evidence = _measured(case, origin, modes, scaling, index)
        lost = scaling.cancelled
        if lost is not None and verdict is Verdict.ROUNDING and _cancels(case, origin):
            verdict = Verdict.UNSTABLE
            evidence.append(Evidence(_loses(lost), {"lost_bits": lost.lost, "lost_bits_other": lost.other}))
        if local and index in local:
            excused = _agrees(scaling.program.lifted) and not _same_question(case, origin)
            verdict, evidence = _with_local(origin, verdict, evidence, local[index], excused)
        explaining = [c for c in causes if _proven_here(c) and explains(c, origin)]
        if explaining and verdict is not Verdict.UNSTABLE:
            verdict = max((c.verdict for c in explaining), key=lambda v: v.severity)
        if stored is not None and verdict is Verdict.SEMANTIC:
            verdict, evidence = Verdict.ROUNDING, [*evidence, stored]
        judged.append(replace(origin, verdict=verdict, evidence=(*origin.evidence, *evidence)))
    return tuple(judged)


def _proven_here(cause: Cause) -> bool:
    """Whether an experiment shows that the origins are this cause's; which mistake it is may still be open."""
    open_mistake = cause.status == "inconclusive" and is_general(cause.code) and cause.verdict is Verdict.SEMANTIC
    proven = open_mistake and any(experiment.status == "confirmed" for experiment in cause.experiments)
    return not cause.inert and (cause.status in ("confirmed", "located") or proven)


def explains(cause: Cause, origin: Origin) -> bool:
    """Whether an origin reads what a cause changes, or is the cause's site."""
    targets = {intervention.target for intervention in cause.interventions} | {cause.site}
    here = [str(site) for o in (origin.site, origin.candidate_site) for site in (o, o.at(""))]
    return bool(targets & {*origin.leaves, *here}) or any(t.startswith(f"{s}.") for t in targets for s in here)


# --------------------------------------------------------------------------- one origin


def _with_local(
    origin: Origin, verdict: Verdict, evidence: list[Evidence], result: LocalResult, excused: bool
) -> tuple[Verdict, list[Evidence]]:
    """The local test decides between kernels of one op, which lifting cannot tell, and what lifting left.

    ``excused``: the outputs agree when lifted, and the two ops were asked for different things (parts of a batch):
    then another result here is no other function.
    """
    found = [*evidence, Evidence(f"local test: {result.reason}"), *result.evidence]
    if result.verdict is Verdict.UNSTABLE and origin.kind not in ("state", "input"):
        return result.verdict, found
    if result.verdict is Verdict.SEMANTIC and excused:
        return verdict, found
    same_op = origin.kind == "implementation" and verdict in (Verdict.ROUNDING, Verdict.PRECISION)
    if result.verdict is not Verdict.INCONCLUSIVE and (same_op or verdict is Verdict.INCONCLUSIVE):
        return result.verdict, found
    return verdict, found


def _same_question(case: Case, origin: Origin) -> bool:
    """Whether both ops of an origin have the same arguments and inputs of the same shapes."""
    sides = [
        trace.calls[i] if 0 <= i < len(trace.calls) else None
        for trace, i in zip((case.reference, case.candidate), origin.calls, strict=True)
    ]
    ours, theirs = sides
    if ours is None or theirs is None or ours.arguments != theirs.arguments:
        return False
    return [e.spec.shape for e in ours.reads] == [e.spec.shape for e in theirs.reads]


def _measured(case: Case, origin: Origin, modes: Modes, scaling: Scaling, index: int) -> tuple[Verdict, list[Evidence]]:
    """The verdict that measurements alone give."""
    ways = (("casts lifted", modes.lifted), ("casts kept", modes.kept), ("state restored", modes.restored))
    evidence = [_evidence(word, scale) for word, scale in ways if scale is not None]
    special = _special(origin.comparison)
    if special and (modes.lifted is None or not modes.lifted.double.special or origin.comparison.value("nan_mismatch")):
        return Verdict.UNSTABLE, [Evidence(f"{special} stands on one side only"), *evidence]
    if origin.kind in ("state", "input") and origin.leaves:
        if _agrees(scaling.program.lifted) and not _reads_a_difference(case, origin):
            verdict = Verdict.PRECISION if _stays(scaling.program.kept) else Verdict.ROUNDING
            return verdict, [
                Evidence(
                    "it reads equal tensors in another place, and the outputs agree when lifted: another way to "
                    "the same values",
                    {"program": str(scaling.program.lifted)},
                ),
                *evidence,
            ]
        verdict, proof = _of_leaves(case, origin, modes, scaling)
        return verdict, [*proof, *evidence]
    if modes.lifted is None and _agrees(scaling.program.lifted):
        verdict = Verdict.PRECISION if _stays(scaling.program.kept) else Verdict.ROUNDING
        return verdict, [
            Evidence(
                "the outputs agree when lifted: another way to the same values",
                {"program": str(scaling.program.lifted)},
            )
        ]
    if modes.lifted is None:
        unmeasured = Verdict.SEMANTIC if origin.kind in ("arguments", "layout") else Verdict.INCONCLUSIVE
        why = scaling.why_not or "the lifted programs have no floating value to compare here"
        return unmeasured, [Evidence(f"the scaling test did not judge it: {why}")]
    verdict = _of_scale(case, origin, modes)
    if verdict is Verdict.SEMANTIC and _agrees(scaling.program.lifted):
        verdict = Verdict.PRECISION if _stays(scaling.program.kept) else Verdict.ROUNDING
        evidence.append(
            Evidence(
                "the outputs agree when lifted: another way to the same values",
                {"program": str(scaling.program.lifted)},
            )
        )
    elif verdict is Verdict.SEMANTIC and index in scaling.together and _agrees(scaling.regions):
        verdict = Verdict.ROUNDING
        evidence.append(
            Evidence("with the regions alone acting, the outputs agree when lifted", {"regions": str(scaling.regions)})
        )
    return verdict, evidence


def _loses(lost: Cancelled) -> str:
    names = ("reference", "candidate")
    return (
        f"the programs agree in float64, and in float32 the {names[lost.worse]} loses {lost.lost:.1f} of "
        f"{lost.digits:.0f} bits of the outputs where the {names[1 - lost.worse]} loses {lost.other:.1f}"
    )


def _reads_a_difference(case: Case, origin: Origin) -> bool:
    """Whether a leaf that an origin reads differs, or only one side has it."""
    leaves = [leaf for pair in case.differing_leaves for leaf in pair]
    differing = {name for leaf in leaves for name in (leaf.name, case.rename(leaf.name))}
    lone = {leaf.name for leaves in case.lone_leaves() for leaf in leaves}
    return bool((differing | lone) & set(origin.leaves))


def _of_scale(case: Case, origin: Origin, modes: Modes) -> Verdict:
    assert modes.lifted is not None
    nature = modes.lifted.nature
    if nature == "stays":
        return Verdict.SEMANTIC
    if nature == "between":
        return Verdict.INCONCLUSIVE
    if modes.kept is not None and modes.kept.nature == "stays":
        recorded = origin.comparison.value("mean_abs")
        artefact = recorded is not None and recorded * CAST_ARTEFACT < modes.kept.double.mean
        return Verdict.ROUNDING if artefact else Verdict.PRECISION
    if nature == "equal":
        return Verdict.PRECISION if _precision_flags(case, origin) else Verdict.INCONCLUSIVE
    return Verdict.ROUNDING


def _of_leaves(case: Case, origin: Origin, modes: Modes, scaling: Scaling) -> tuple[Verdict, list[Evidence]]:
    """Differing state: the same formula at another precision only if each tensor is the other's rounding."""
    casts, others = [], []
    for ours, theirs in case.differing_leaves:
        if theirs.name not in origin.leaves:
            continue
        try:
            cast = proven_cast(case.payload(ours, "reference"), case.payload(theirs, "candidate"))
        except PayloadError as error:
            return Verdict.INCONCLUSIVE, [Evidence(error.what)]
        if cast is None:
            others.append(theirs.name)
        else:
            casts.append(f"{theirs.name} of the {cast.rounded} is the other side's, rounded to {cast.narrow}")
    if others or not casts:
        named = ", ".join(others or origin.leaves)
        return Verdict.SEMANTIC, [Evidence(f"{named}: not a rounding of the other side's")]
    evidence = [Evidence(text) for text in casts]
    restored = modes.restored or scaling.program.restored
    if restored is not None and restored.nature in ("stays", "between"):
        return Verdict.SEMANTIC, [*evidence, Evidence("with this state restored the difference stays")]
    return Verdict.PRECISION, evidence


def _precision_flags(case: Case, origin: Origin) -> list[str]:
    flags = []
    for trace, index in zip((case.reference, case.candidate), origin.calls, strict=True):
        context = trace.calls[index].context if 0 <= index < len(trace.calls) else 0
        flags.append(trace.contexts[context] if context < len(trace.contexts) else {})
    return [name for name in _PRECISION_FLAGS if flags[0].get(name) != flags[1].get(name)]


def _special(comparison: Comparison) -> str:
    names = {"nan_mismatch": "NaN", "inf_mismatch": "infinity"}
    return " and ".join(names[metric] for metric in _SPECIAL if comparison.value(metric))


def _evidence(word: str, scale: Scale) -> Evidence:
    data = {
        "float32": scale.single.mean,
        "float64": scale.double.mean,
        "slope": scale.slope,
        "nature": scale.nature,
        "where": scale.where,
    }
    return Evidence(f"lifted, {word}, at {scale.where}: {scale}", data)


def _agrees(scale: Scale | None) -> bool:
    return scale is not None and scale.nature in ("equal", "rounding")


def _stays(scale: Scale | None) -> bool:
    return scale is not None and scale.nature == "stays"


# --------------------------------------------------------------------------- the whole difference


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
    broken = [str(slot) for slot, comparison in local.outputs if _special(comparison)]
    compared = local.agreeing + local.propagated + len(origins)
    numeric = [pair for pair in case.alignment.pairs if case.reference.calls[pair.reference].kind != "return"]
    if not numeric or not compared:
        if broken:
            return Verdict.UNSTABLE, f"NaN or infinity on one side only in {', '.join(broken)}{_numbers(scaling)}"
        if scaling is not None and _agrees(scaling.program.lifted):
            return _without_origins(scaling, _numbers(scaling))  # no op in common, and the same function
        if scaling is None or not origins or not _same_task(case, scaling):
            return Verdict.INCOMPARABLE, "nothing corresponds: no call of one run has a counterpart in the other"
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
        return _without_origins(scaling, numbers)
    worst = max(origins, key=lambda origin: origin.verdict.severity)
    lost = scaling.cancelled if scaling is not None else None
    if lost is not None and worst.verdict in (Verdict.ROUNDING, Verdict.UNSTABLE):
        return Verdict.UNSTABLE, f"{_loses(lost)}; {len(origins)} origins, the first at {worst.site}{numbers}"
    reach = "" if differing or not local.outputs else "; it does not reach the outputs"
    stored = folded(case, scaling)
    if stored is not None and worst.verdict is Verdict.ROUNDING:
        return Verdict.ROUNDING, f"{stored.statement}; {len(origins)} origins, the first at {worst.site}{numbers}"
    contradiction = worst.verdict is Verdict.ROUNDING and scaling is not None and _stays(scaling.program.lifted)
    flips = sum(count.count for count in scaling.counts if count.code == "flip") if scaling else 0
    if not flips and worst.verdict is Verdict.PRECISION and scaling is not None and _missed(scaling):
        return Verdict.SEMANTIC, (
            f"the outputs differ at any precision, which none of the {len(origins)} origins does: one was missed{numbers}"
        )
    if contradiction:
        why = f"; {flips} discrete choices flip" if flips else ""
        return Verdict.INCONCLUSIVE, (
            f"because every origin is rounding and the outputs' difference does not shrink{numbers}{why}"
        )
    return worst.verdict, _reason(worst, origins, causes) + numbers + reach


def _missed(scaling: Scaling) -> bool:
    """Whether the outputs' difference stays in float64 although every origin's own vanishes there."""
    measured = bool(scaling.origins) and all(_agrees(modes.lifted) for modes in scaling.origins)
    return measured and _stays(scaling.program.lifted)


def _same_task(case: Case, scaling: Scaling) -> bool:
    """Whether runs without a common op are counterparts as wholes: the same inputs, outputs of the same shapes.

    Equal tensors that the programs captured count as inputs, whether they are arguments, constants or attributes of
    what was called; values that only one side reads do not matter (a formula may need fewer).
    """
    if not _stays(scaling.program.lifted) or not case.localization.outputs:
        return False
    if any(comparison.other_shape for _, comparison in case.localization.outputs):
        return False
    read = [
        {
            (leaf.spec.shape, leaf.fingerprint)
            for leaf in trace.leaves
            if leaf.storage >= 0 and leaf.fingerprint is not None and leaf.role in _GIVEN
        }
        for trace in (case.reference, case.candidate)
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


def _without_origins(scaling: Scaling | None, numbers: str) -> tuple[Verdict, str]:
    program = scaling.program if scaling else Modes()
    if _stays(program.lifted):
        return Verdict.SEMANTIC, f"the outputs differ at any precision, and no origin was found{numbers}"
    if _agrees(program.lifted):
        verdict = Verdict.PRECISION if _stays(program.kept) else Verdict.ROUNDING
        return verdict, f"no op corresponds one to one, and the outputs agree when lifted{numbers}"
    return Verdict.INCONCLUSIVE, "because the outputs differ and no origin was found"


def _numbers(scaling: Scaling | None) -> str:
    """The measured numbers of the outputs, as the end of a sentence."""
    if scaling is None or scaling.program.lifted is None:
        return ""
    text = f"; lifted: {scaling.program.lifted}"
    if scaling.program.restored is not None:
        text += f" (state restored: {scaling.program.restored})"
    if _stays(scaling.program.kept):
        text += f" (casts kept: {scaling.program.kept})"
    return text


def _reason(worst: Origin, origins: Sequence[Origin], causes: Sequence[Cause]) -> str:
    why = [cause for cause in causes if cause.status == "confirmed" and cause.verdict == worst.verdict]
    count = f"{len(origins)} origin{'s' if len(origins) != 1 else ''}"
    if why:
        mine = sum(explains(why[0], origin) for origin in origins)
        every = f"explains {mine} of {count}" if mine else f"is why, and none of {count} is its own place"
        return f"{why[0].name} at {why[0].site}, proven by experiment, {every}"
    if worst.verdict is Verdict.INCONCLUSIVE:
        return f"because {count} differ on equal inputs and no test tells rounding from a defect"
    if worst.verdict is Verdict.ROUNDING:
        return f"{count} of the same function, computed in another order, the first at {worst.site}"
    return f"{worst.site} differs: {worst.evidence[0].statement if worst.evidence else worst.kind}; {count}"
