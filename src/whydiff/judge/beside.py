"""What else differs where one side is the other cast as a whole: looked for with the cast undone, proven together with it.

Behind the first rounded tensor every value of the narrow side is another one, and none of the wide side's fits into its
place: the walk finds one place where a difference starts, whatever else is wrong. So the narrow side is carried out in the
wide dtype, on the tensors that were not rounded, and causes are asked about the two programs as they are then.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

from whydiff.capturing.adapters import Progress, executor_of
from whydiff.errors import PayloadError, ReplayError
from whydiff.explain.case import Case
from whydiff.explain.causes import Undone, detectors, pr002, proposed, undone, whole_cast
from whydiff.explain.read_alike import told_apart
from whydiff.explain.restoring import by_values
from whydiff.explain.rounded_numbers import numbers_back
from whydiff.explain.scaling import measure_scaling
from whydiff.explain.sides import SIDES
from whydiff.explain.uncast import uncast
from whydiff.judge.cast_and_mistakes import with_the_mistakes
from whydiff.judge.claims import Claims
from whydiff.judge.each_origin import judge_origins
from whydiff.judge.verify import verify
from whydiff.locate.localize import localize
from whydiff.records import Cause, Evidence, Origin, Verdict

_UNDONE = Evidence("found with the cast undone: in one dtype and on the same tensors the two sides differ here")


@dataclass(frozen=True, slots=True)
class Beside:
    """What is beside a cast.

    Attributes:
        causes: the cast and the other functions, verified, if the others are proven together with it; else none.
        origins: where another function is computed, whether or not it is known which mistake that is.
    """

    causes: tuple[Cause, ...] = ()
    origins: tuple[Origin, ...] = ()


def beside_a_cast(case: Case, progress: Progress | None = None) -> Beside:
    """What differs beside the cast of a whole side, where it is not all that differs."""
    found = undone(case)
    if found is None or whole_cast(case) is not None:
        return Beside()
    inner = _in_one_dtype(case, found, progress)
    if inner is None or not inner.localization.origins:
        return Beside()
    with closing(inner):
        others = [cause for rule in detectors() for cause in proposed(rule, inner) if cause.verdict is Verdict.SEMANTIC]
        judged = judge_origins(inner, (), measure_scaling(inner, progress))
    whole = pr002.REGISTER.of_whole(case, found.cast, (*found.back, *numbers_back(case), *found.dtypes))
    others = [replace(cause, interventions=by_values(case.traces, cause.interventions)) for cause in others]
    causes = _together(case, replace(whole, put_in=found.put_in), others, progress)
    claims = [Claims.of(cause) for cause in causes[1:]]
    return Beside(
        causes=causes,
        origins=tuple(
            replace(origin, verdict=Verdict.SEMANTIC, evidence=(*origin.evidence, _UNDONE))
            for origin in judged
            if origin.verdict is Verdict.SEMANTIC or any(one.holds(origin) for one in claims)
        ),
    )


def _together(case: Case, whole: Cause, others: list[Cause], progress: Progress | None) -> tuple[Cause, ...]:
    """The cast and the others, verified, if these are proven; without what no experiment could be made for."""
    causes = verify(case, (whole, *others), progress) if others else ()
    untried = [not cause.experiments for cause in causes[1:]]
    if any(untried) and not all(untried):
        left = [cause for cause, without in zip(others, untried, strict=True) if not without]
        causes = verify(case, (whole, *left), progress)
    if not causes or not all(cause.status == "confirmed" for cause in causes[1:]):
        return ()
    if causes[0].status != "confirmed":
        return (with_the_mistakes(case, whole, causes[1:]), *causes[1:])
    return causes


def _in_one_dtype(case: Case, found: Undone, progress: Progress | None) -> Case | None:
    """The pair with the cast undone; None: it cannot be."""
    cast = found.cast
    side = SIDES.index(cast.rounded)
    traces = [*case.traces]
    try:
        tensors = {pair[side].name: case.payload(pair[1 - side], SIDES[1 - side]) for pair in told_apart(case)}
        own = executor_of(traces[side])
        for pair in found.changed:
            tensors[pair[side].name] = own.payload(own.held_in(own.leaf_value(pair[side]), cast.wide))
    except (PayloadError, ReplayError):
        return None
    wide = uncast(traces[side], cast.wide, cast.narrow, tensors, numbers_back(case, SIDES[side]))
    if wide is None:
        return None
    traces[side] = wide
    local, _ = localize(traces[0], traces[1], case.alignment, progress)
    return Case(traces[0], traces[1], case.alignment, local, progress=progress)
