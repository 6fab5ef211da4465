"""What each origin amounts to: experiments, the scaling test and the local test, in this order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from whydiff.errors import PayloadError
from whydiff.explain.alike import alike
from whydiff.explain.case import Case
from whydiff.explain.causes import is_general
from whydiff.explain.local_test import LocalResult, far_apart
from whydiff.explain.read_alike import cast_of, told_apart
from whydiff.explain.reruns import Rerun
from whydiff.explain.rounded_numbers import only_rounded
from whydiff.explain.scale import Scale, agrees, stays
from whydiff.explain.scaling import Modes, Scaling
from whydiff.judge.as_run import made_on_the_way, special_numbers
from whydiff.judge.claims import Claims
from whydiff.judge.left_out import left_to_others, like_others
from whydiff.judge.weighing import folded
from whydiff.locate.unread import unread
from whydiff.numbers.cancellation import Cancelled
from whydiff.numbers.tolerance import CANCELLED_SHARE, CAST_ARTEFACT, UNIT_ROUNDOFF
from whydiff.records import Cause, Evidence, Origin, Verdict
from whydiff.records.finding import NOT_MADE_OF

_PRECISION_FLAGS = ("matmul_precision", "cuda_tf32", "cudnn_tf32", "fp16_reduction", "bf16_reduction")
_UNREAD = "its values are wholly written over before anything that leads to an output reads them: they change no output"


def needs_local_test(case: Case, scaling: Scaling | None) -> bool:
    """Whether some origin is the same op on equal inputs, or was left open by the scaling test."""
    origins = case.localization.origins
    if any(origin.kind == "implementation" or _cancels(case, origin) for origin in origins):
        return True
    if scaling is None:
        return False
    examined = [(origins[number], scaling.origins[number]) for number in alike(case).examined]
    return any(
        origin.kind not in ("state", "input") and (modes.lifted is None or modes.lifted.nature in ("equal", "between"))
        for origin, modes in examined
    )


def _cancels(case: Case, origin: Origin) -> bool:
    """Whether two formulas lie so far apart that rounding alone would be a loss of more than half of the digits."""
    apart = origin.comparison.value("rel_l2")
    call = origin.calls[0]
    if origin.kind not in ("region", "layout", "arguments") or apart is None or call < 0:
        return False
    units = [UNIT_ROUNDOFF[e.spec.dtype] for e in case.reference.calls[call].writes if e.spec.dtype in UNIT_ROUNDOFF]
    return bool(units) and apart > max(units) ** CANCELLED_SHARE


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
    whole = [c for c in causes if c.status == "confirmed" and not c.inert and all(e.after == 0 for e in c.experiments)]
    proven = [(cause, Claims.of(cause)) for cause in causes if _proven_here(cause)]
    kinds = left_to_others(case, scaling, local)
    without_effect = unread(case.reference, case.candidate, case.localization.origins)
    judged: dict[int, Origin] = {}
    for index, origin in sorted(enumerate(case.localization.origins), key=lambda item: item[0] in kinds):
        if case.localization.silent:
            silent = Evidence(case.localization.silent)
            judged[index] = replace(origin, verdict=Verdict.IDENTICAL, evidence=(*origin.evidence, silent))
            continue
        verdict, evidence = _tested(case, scaling, local, index)
        if index in kinds:
            verdict, evidence = like_others(origin, verdict, [judged[other] for other in kinds[index]])
        explaining = [cause.verdict for cause, claims in proven if claims.holds(origin)]
        if index in without_effect and not explaining:
            verdict, evidence = Verdict.IDENTICAL, [Evidence(_UNREAD)]
        elif explaining and verdict is not Verdict.UNSTABLE:
            verdict = max(explaining, key=lambda v: v.severity)
        elif whole and verdict is Verdict.INCONCLUSIVE:
            verdict = max((c.verdict for c in whole), key=lambda v: v.severity)
            evidence.append(
                Evidence(f"{', '.join(c.code for c in whole)} is all of the outputs' difference, this included")
            )
        if stored is not None and verdict is Verdict.SEMANTIC:
            verdict, evidence = Verdict.ROUNDING, [*evidence, stored]
        judged[index] = replace(origin, verdict=verdict, evidence=(*origin.evidence, *evidence))
    return tuple(judged[index] for index in range(len(judged)))


def _tested(
    case: Case, scaling: Scaling, local: Mapping[int, LocalResult] | None, index: int
) -> tuple[Verdict, list[Evidence]]:
    """What the scaling test and the local test make of an origin."""
    origin = case.localization.origins[index]
    verdict, evidence = _measured(case, origin, scaling.origins[index], scaling, index)
    lost = scaling.cancelled
    if lost is not None and verdict is Verdict.ROUNDING and _cancels(case, origin):
        verdict = Verdict.UNSTABLE
        evidence.append(Evidence(lost_digits(lost), {"lost_bits": lost.lost, "lost_bits_other": lost.other}))
    unstable = local is not None and index in local and local[index].verdict is Verdict.UNSTABLE
    kept_apart = scaling.alone and stays(scaling.origins[index].lifted)  # digits that were lost come back in float64
    if local and index in local and not (unstable and (kept_apart or _unfelt(origin, scaling.origins[index]))):
        excused = agrees(scaling.program.lifted) and not _same_question(case, origin)
        if local[index].tied:
            verdict, excused = _of_ties(case, origin, verdict), True
        verdict, evidence = _with_local(origin, verdict, evidence, local[index], excused)
    return verdict, evidence


def heeded(told: Rerun | None, origins: Iterable[Origin]) -> Rerun | None:
    """What runs in float64 say, if they are runs of the same programs.

    An op that gave what its recorded inputs do not give read memory that something else had changed: copies of the
    model in float64 do not share it, so that no difference there is no rounding here. One that stays there is one.
    """
    unmade = any(NOT_MADE_OF in one.data for origin in origins for one in origin.evidence)
    return None if unmade and told is not None and told.verdict is not Verdict.SEMANTIC else told


def _proven_here(cause: Cause) -> bool:
    """Whether an experiment shows that the origins are this cause's; which mistake it is may still be open."""
    open_mistake = cause.status == "inconclusive" and is_general(cause.code) and cause.verdict is Verdict.SEMANTIC
    proven = open_mistake and any(experiment.status == "confirmed" for experiment in cause.experiments)
    return not cause.inert and (cause.status in ("confirmed", "located") or proven)


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
    if any(NOT_MADE_OF in one.data for one in result.evidence):
        return result.verdict, found
    same_op = origin.kind == "implementation" and verdict in (Verdict.ROUNDING, Verdict.PRECISION)
    if result.verdict is not Verdict.INCONCLUSIVE and (same_op or verdict is Verdict.INCONCLUSIVE):
        return result.verdict, found
    return verdict, found


def _of_ties(case: Case, origin: Origin, verdict: Verdict) -> Verdict:
    """What other choices among equal values are where float64, in which they may not be equal, gave this verdict.

    They are no matter of precision: two ops have other rules. Two kernels of one op may have them too.
    """
    if verdict is Verdict.PRECISION or (verdict is Verdict.INCONCLUSIVE and far_apart(case)):
        return Verdict.INCONCLUSIVE if origin.kind == "implementation" else Verdict.SEMANTIC
    return verdict


def _unfelt(origin: Origin, modes: Modes) -> bool:
    """Whether digits that are lost at an origin are none of the outputs': less than a rounding of theirs reaches them."""
    felt = modes.lifted
    if felt is None or felt.nature != "rounding" or special_numbers(origin.comparison):
        return False
    return felt.single.mean <= UNIT_ROUNDOFF["float32"] * felt.single.magnitude


def _same_question(case: Case, origin: Origin) -> bool:
    """Whether both ops of an origin have the same arguments and inputs of the same shapes, of which no tensor differs."""
    if origin.leaves:
        return False
    sides = [
        trace.calls[i] if 0 <= i < len(trace.calls) else None
        for trace, i in zip(case.traces, origin.calls, strict=True)
    ]
    ours, theirs = sides
    if ours is None or theirs is None or ours.arguments != theirs.arguments:
        return False
    return [e.spec.shape for e in ours.reads] == [e.spec.shape for e in theirs.reads]


def _measured(case: Case, origin: Origin, modes: Modes, scaling: Scaling, index: int) -> tuple[Verdict, list[Evidence]]:
    """The verdict that measurements alone give."""
    ways = (
        ("", modes.lifted),
        (", with the program's own casts", modes.kept),
        (", with the reference's state", modes.restored),
    )
    evidence = [_evidence(word, scale) for word, scale in ways if scale is not None]
    special = special_numbers(origin.comparison)
    new = modes.lifted is None or not modes.lifted.double.special or origin.comparison.value("nan_mismatch")
    if special and new and not made_on_the_way(case, origin):
        return Verdict.UNSTABLE, [Evidence(f"{special} stands on one side only"), *evidence]
    if origin.kind in ("state", "input") and origin.leaves:
        if agrees(scaling.program.lifted):
            other = _reads_a_difference(case, origin)
            how = (
                "what differs in the tensors reaches no output" if other else "it reads equal tensors in another place"
            )
            verdict, another_way = _another_way(scaling, f"{how}, and ")
            return verdict, [another_way, *evidence]
        verdict, proof = _of_leaves(case, origin, modes, scaling)
        return verdict, [*proof, *evidence]
    if modes.lifted is None and agrees(scaling.program.lifted):
        verdict, another_way = _another_way(scaling)
        return verdict, [another_way]
    if modes.lifted is None:
        unmeasured = Verdict.SEMANTIC if origin.kind in ("arguments", "layout") else Verdict.INCONCLUSIVE
        why = scaling.why_not or "in float64 the programs have no floating value to compare here"
        return unmeasured, [Evidence(f"it was not judged at two precisions: {why}")]
    verdict = _of_scale(case, origin, modes)
    if verdict is Verdict.SEMANTIC and only_rounded(case) and (agrees(modes.restored) or _is_state(case, scaling)):
        verdict = Verdict.PRECISION
        evidence.append(
            Evidence("it is what the sides begin with: that differs by rounding alone, and with it restored they agree")
        )
    elif verdict is Verdict.SEMANTIC and agrees(scaling.program.lifted):
        verdict, another_way = _another_way(scaling)
        evidence.append(another_way)
    elif verdict is Verdict.SEMANTIC and index in scaling.together and agrees(scaling.regions):
        verdict = Verdict.ROUNDING
        evidence.append(
            Evidence("with the regions alone acting, the outputs agree in float64", {"regions": str(scaling.regions)})
        )
    return verdict, evidence


def _is_state(case: Case, scaling: Scaling) -> bool:
    """Whether state and inputs are all that the outputs differ by, each the other side's but for rounding."""
    return agrees(scaling.program.restored) and only_rounded(case)


def _another_way(scaling: Scaling, how: str = "") -> tuple[Verdict, Evidence]:
    """What an origin amounts to where the whole programs agree in float64."""
    verdict = Verdict.PRECISION if stays(scaling.program.kept) else Verdict.ROUNDING
    said = f"{how}the outputs agree in float64: another way to the same values"
    return verdict, Evidence(said, {"program": str(scaling.program.lifted)})


def lost_digits(lost: Cancelled) -> str:
    """That one program loses digits which the other keeps, in words."""
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
    for ours, theirs in told_apart(case):
        if theirs.name not in origin.leaves:
            continue
        try:
            cast = cast_of(case, ours, theirs)
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
    for trace, index in zip(case.traces, origin.calls, strict=True):
        context = trace.calls[index].context if 0 <= index < len(trace.calls) else 0
        flags.append(trace.contexts[context] if context < len(trace.contexts) else {})
    return [name for name in _PRECISION_FLAGS if flags[0].get(name) != flags[1].get(name)]


def _evidence(word: str, scale: Scale) -> Evidence:
    data = {
        "float32": scale.single.mean,
        "float64": scale.double.mean,
        "slope": scale.slope,
        "nature": scale.nature,
        "where": scale.where,
    }
    return Evidence(f"carried out again at two precisions{word}, at {scale.where}: {scale}", data)
