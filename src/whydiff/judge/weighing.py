"""Causes that an experiment speaks for, held against float64 and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whydiff.explain.case import Case
from whydiff.explain.causes import is_general, or001, pr007, products_alike
from whydiff.explain.local_test import LocalResult, far_apart
from whydiff.explain.scale import agrees, stays
from whydiff.explain.scaling import Modes, Scaling
from whydiff.judge.claims import Claims
from whydiff.numbers.tolerance import SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Cause, Evidence, Verdict


def weighed(case: Case, causes: Sequence[Cause], scaling: Scaling | None) -> tuple[Cause, ...]:
    """Causes whose removal makes the bits equal, held against float64.

    A confirmed cause that claims another function is none where the programs compute the same without rounding:
    if the difference stays with the recorded casts, it is one of precision; else the cause chooses another way to
    the same values. It explains the bits, and is no defect; where state was folded, that is what happened, and it is ruled
    out. Another choice among values that casts make equal is another function all the same.

    A general cause, which says where another function is computed but not by which mistake, stays inconclusive
    while a named one of the same verdict could not be tried: it may be that one's effect.

    What only the whole outputs show is added as a cause: one side stores what the other computes; sums in other steps.

    Args:
        case: the pair of runs.
        causes: after `whydiff.judge.verify.verify`.
        scaling: from `whydiff.explain.scaling.measure_scaling`; None: nothing differs.
    """
    program = scaling.program if scaling else Modes()
    acting = [c for c in causes if c.status == "confirmed" and not c.inert]
    stored = None if agrees(program.lifted) else folded(case, scaling)
    one_function = agrees(program.lifted) or stored is not None
    no_defect = "in float64 the outputs agree with it too, so it chooses another way to the same values"
    if stored is not None:
        no_defect = stored.statement
    found = []
    for cause in causes:
        claims = cause in acting and cause.verdict is Verdict.SEMANTIC
        claims = claims and not (_breaks_ties(case, cause) and (stays(program.kept) or far_apart(case)))
        if claims and one_function and stays(program.kept):
            cause = replace(cause, verdict=Verdict.PRECISION)
        elif claims and (one_function or _harmless(case, cause, acting)):
            cause = replace(
                cause,
                verdict=Verdict.ROUNDING,
                status="inconclusive" if stored is None else "refuted",
                reason=f"it explains the bits, which agree when it is removed, and is no defect: {no_defect}",
            )
        elif stored is not None and cause.verdict is Verdict.SEMANTIC and cause.status == "inconclusive":
            cause = replace(cause, verdict=Verdict.ROUNDING, status="refuted", reason=f"it is no defect: {no_defect}")
        found.append(cause)
    whole = _of_whole(case, found, scaling, stored)
    return tuple(map(offered, held_back([*found, whole] if whole is not None else found)))


def _breaks_ties(case: Case, cause: Cause) -> bool:
    """Whether a cause's place is a choice that falls otherwise among equal values, which lifting the casts dissolves."""
    local: dict[int, LocalResult] = case.shared("local results", dict)
    claims = Claims.of(cause)
    return any(result.tied and claims.holds(case.localization.origins[index]) for index, result in local.items())


def _of_whole(case: Case, causes: Sequence[Cause], scaling: Scaling | None, stored: Evidence | None) -> Cause | None:
    """What only the whole outputs show."""
    known = {cause.code for cause in causes if cause.status != "refuted"}
    if stored is not None:
        return None if pr007.REGISTER.code in known else pr007.of_program(case, stored)
    program = scaling.program if scaling is not None else Modes()
    rounding = program.lifted is not None and program.lifted.nature == "rounding" and not stays(program.kept)
    if known or not case.localization.origins or scaling is None or scaling.cancelled or not rounding:
        return None
    return or001.of_program(case, program.lifted) if program.lifted is not None else None


def offered(cause: Cause) -> Cause:
    """A cause without its remedy where an experiment speaks against it: what made things worse is not advised."""
    return replace(cause, remedy=None) if cause.status == "refuted" and not cause.inert else cause


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
    apart = case.experiments.apart_if_told(tuple(others))  # None: the experiment stands
    return apart is not None and apart <= SCALING_FLOOR and not case.experiments.unlike_in_float64(tuple(others))


def folded(case: Case, scaling: Scaling | None) -> Evidence | None:
    """Whether the outputs agree in float64 to within the rounding of the state that only one side stores.

    One run stores what the other computes: an adapter merged into a weight, a norm folded into a convolution. In exact
    arithmetic they are one function. The stored product was rounded to its dtype when it was made, and that rounding stays
    when the programs are lifted, so the scaling test alone takes it for another function.

    Asked only where one side has state that the other lacks, and one carries out ops that the other does not: a weight
    that differs in a program of the same ops is never excused. State narrower than float32, whose rounding could hide a
    defect at the outputs, and state whose rounding a later step makes larger (a batch norm of a small variance), is held
    element by element against what the other side's state implies (`explain.implied`).

    Args:
        case: the pair of runs.
        scaling: from `whydiff.explain.scaling.measure_scaling`; None: not measured.

    Returns:
        The measured numbers; None if it is not so. The bound is the unit roundoff of the narrowest such state times
        the root mean square of the reference's output: rounding every element of a factor moves a sum of products
        by less (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.5).
    """
    lifted = scaling.program.lifted if scaling is not None else None
    if lifted is None or lifted.nature not in ("stays", "between") or lifted.double.special:
        return None
    alone = case.alignment.unpaired_reference or case.alignment.unpaired_candidate
    lone = [leaf for side in case.lone_leaves() for leaf in side]
    if not lone or not alone:
        return None
    stored = lone + [leaf for pair in case.differing_leaves for leaf in pair if leaf.is_state]
    units = [UNIT_ROUNDOFF[leaf.spec.dtype] for leaf in stored if leaf.spec.dtype in UNIT_ROUNDOFF]
    wide = bool(units) and max(units) <= UNIT_ROUNDOFF["float32"]
    if not wide or lifted.double.mean > max(units) * lifted.double.magnitude:
        return _element_by_element(case, scaling) if units else None
    return Evidence(
        f"in float64 the outputs agree to within the rounding of stored numbers ({lifted.double.mean:.1e} of "
        f"{lifted.double.magnitude:.1e}): one side stores what the other computes",
        {"float64": lifted.double.mean, "magnitude": lifted.double.magnitude, "unit_roundoff": max(units)},
    )


def _element_by_element(case: Case, scaling: Scaling | None) -> Evidence | None:
    """Whether every origin that stays in float64 is a product whose stored matrix is the other side's, rounded."""
    staying = {
        index
        for index, modes in enumerate(scaling.origins if scaling is not None else ())
        if modes.lifted is None or modes.lifted.nature in ("stays", "between")
    }
    alike = {members: one for members, one in products_alike(case).items() if one.is_rounding}
    if not alike or staying - {index for members in alike for index in members}:
        return None
    worst = max(alike.values(), key=lambda one: one.worst)
    return Evidence(
        f"one side stores what the other computes: the matrices that the products amount to lie, in every element, within "
        f"{worst.worst:.2f} of what half a unit in the last place of every stored number explains",
        {"worst": worst.worst, "dtype": worst.dtype, "products": len(alike)},
    )
