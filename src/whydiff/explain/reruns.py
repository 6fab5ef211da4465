"""Outputs that observing changed, judged by reruns that do not observe: plain runs of both programs in float64.

A compiler or a fast path that stands back while ops are recorded leaves nothing to replay. The live programs can
still be run as they are with every floating tensor that they reach in another dtype (``run-in``): the scaling test
on the programs themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.scale import Difference, Scale, difference, worst
from whydiff.explain.sides import Side
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import PRECISION_CLASS_RATIO, ROUNDING_LEVEL, UNIT_ROUNDOFF
from whydiff.pair.replay import Outputs
from whydiff.records import Intervention, Slot, Trace, Verdict

SIDES: tuple[Side, Side] = ("reference", "candidate")
NARROW = ("bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Rerun:
    """What plain reruns say of the difference.

    Attributes:
        verdict: rounding, precision or semantic.
        reason: the same in words, with the numbers.
        scale: the difference at two precisions.
        errors: how far each side's own outputs lie from its float64 ones, over their root mean square (the mean).
    """

    verdict: Verdict
    reason: str
    scale: Scale
    errors: tuple[float, float]


def changed_by_looking(case: Case) -> tuple[Side, ...]:
    """Sides that repeat themselves and gave other outputs while they were observed."""
    checks = case.reference.observer, case.candidate.observer
    return tuple(
        side
        for side, check in zip(SIDES, checks, strict=True)
        if check.unchanged is False and check.deterministic is True
    )


def rerun(case: Case) -> Rerun | None:
    """The scaling test by plain reruns; None where observing changed nothing, or a side cannot be run so.

    Raises:
        whydiff.errors.TargetError: a program does not run in float64.
    """
    found: Rerun | None = case.shared("reruns", lambda: _rerun(case))
    return found


def _rerun(case: Case) -> Rerun | None:
    wide = _in("float64")
    if not changed_by_looking(case) or not all(case.experiments.reruns(side, (wide,)) for side in SIDES):
        return None
    plain = [case.experiments.plain_outputs(side) for side in SIDES]
    exact = [case.experiments.plain_outputs(side, (wide,)) for side in SIDES]
    single = plain
    if computes_in(case.reference) or computes_in(case.candidate):
        single = [case.experiments.plain_outputs(side, (_in("float32"),)) for side in SIDES]
    scale = worst(_apart(*single), _apart(*exact))
    if scale is None:
        return None
    errors = _error(exact[0], plain[0]), _error(exact[1], plain[1])
    return _judged(case, scale, errors, plain)


def _apart(ours: Outputs, theirs: Outputs) -> dict[Slot, Difference | None]:
    return {slot: difference(payload, theirs[slot]) for slot, payload in ours.items() if slot in theirs}


def _in(dtype: str) -> Intervention:
    return Intervention("run-in", "", dtype)


def computes_in(trace: Trace) -> tuple[str, ...]:
    """16-bit dtypes in which a recorded program keeps values."""
    seen = {event.spec.dtype for call in trace.calls for event in call.writes}
    return tuple(dtype for dtype in NARROW if dtype in seen)


def _error(exact: Outputs, plain: Outputs) -> float:
    """The largest mean error of an output over its root mean square."""
    apart = [difference(exact[slot], payload) for slot, payload in plain.items() if slot in exact]
    return max((one.mean / one.magnitude for one in apart if one is not None and one.magnitude), default=0.0)


def _judged(case: Case, scale: Scale, errors: tuple[float, float], plain: list[Outputs]) -> Rerun | None:
    numbers = f"plain runs in float32 and float64: {scale}"
    if scale.nature in ("equal", "rounding"):
        worse = SIDES[int(errors[1] > errors[0])]
        levels = f"the reference is {errors[0]:.1e} of its size away from float64, the candidate {errors[1]:.1e}"
        unit = max(UNIT_ROUNDOFF.get(payload.dtype, 0.0) for side in plain for payload in side.values())
        if max(errors) > max(PRECISION_CLASS_RATIO * min(errors), ROUNDING_LEVEL * unit):
            reason = f"both programs compute the same, and the {worse} with fewer bits: {levels}; {numbers}"
            return Rerun(Verdict.PRECISION, reason, scale, errors)
        return Rerun(Verdict.ROUNDING, f"both programs compute the same: {levels}; {numbers}", scale, errors)
    if scale.nature == "between":
        return None
    for number, side in enumerate(SIDES):
        for dtype in NARROW:
            if _gives(case, side, dtype, plain[1 - number]):
                reason = f"the {SIDES[1 - number]} gives bit for bit what the {side} gives in {dtype}"
                return Rerun(Verdict.PRECISION, reason, scale, errors)
    return Rerun(Verdict.SEMANTIC, f"the programs compute other functions; {numbers}", scale, errors)


def _gives(case: Case, side: Side, dtype: str, wanted: Outputs) -> bool:
    """Whether a program, run as a whole in a narrower dtype, gives these outputs bit for bit."""
    try:
        given = case.experiments.plain_outputs(side, (_in(dtype),))
    except WhydiffError:  # it does not run in that dtype
        return False
    return given.keys() == wanted.keys() and all(
        compare_payloads(given[slot], wanted[slot]).status == "agrees" for slot in given
    )


__all__ = ["NARROW", "SIDES", "Rerun", "changed_by_looking", "computes_in", "rerun"]
