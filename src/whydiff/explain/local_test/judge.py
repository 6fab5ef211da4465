"""The local test's decision for one origin: both outputs on the same inputs, against the float64 oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.explain.local_test.families import Oracle, evaluate, kind_of, oracle_of, roundings_of
from whydiff.explain.local_test.hypotheses import Explanation, explain
from whydiff.explain.local_test.measures import Measured, farthest, match_z, measure_side, values_at
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers.cancellation import Cancelled, cancelled
from whydiff.numbers.metrics import as_reals
from whydiff.numbers.tolerance import (
    CORRECT_ROUNDING_Z,
    PRECISION_CLASS_RATIO,
    ROUNDING_LEVEL,
    SAME_FUNCTION,
    UNIT_ROUNDOFF,
    WIDEST_CLASS,
)
from whydiff.records import Evidence, Payload, Verdict


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What the local test says about one origin.

    Attributes:
        verdict: rounding, precision, semantic, unstable or inconclusive.
        reason: one sentence with the numbers that decided.
        evidence: every statistic, as statements with data.
        hypotheses: accepted hypotheses, of the candidate first.
        sampled: (judged outputs, all outputs).
        tied: the sides differ in which of several equal values they choose, and in nothing else.
        unexplained: the side whose error no rounding explains and no hypothesis names; empty: there is none.
    """

    verdict: Verdict
    reason: str
    evidence: tuple[Evidence, ...] = ()
    hypotheses: tuple[Explanation, ...] = ()
    sampled: tuple[int, int] = (0, 0)
    tied: bool = False
    unexplained: str = ""


def undecided(reason: str) -> LocalResult:
    """A result for an origin that could not be tested."""
    return LocalResult(Verdict.INCONCLUSIVE, reason)


def judge_outputs(
    reference: Operation,
    reference_output: Payload,
    candidate_output: Payload,
    candidate: Operation | None = None,
    names: tuple[str, str] = ("reference", "candidate"),
    *,
    index: Array | None = None,
    total: int | None = None,
) -> LocalResult:
    """Judge two outputs of one op.

    Args:
        reference: the op (or region) on its inputs, as the reference recorded it.
        reference_output: what the reference computed.
        candidate_output: what the candidate computed on the same inputs.
        candidate: the candidate's op with its own arguments and inputs, if they may differ from the
            reference's.
        names: what the two sides are called (exchanged if the candidate's op serves as the oracle).
        index: flat positions that are judged; None: `sample_of` the output, with those that differ most.
        total: of how many outputs these are some; None: of those that are given.

    Raises:
        whydiff.errors.ReplayError: the oracle cannot be executed.
    """
    if reference_output.bits.shape != candidate_output.bits.shape:
        return undecided("the outputs have other shapes")
    reference_output, candidate_output = as_reals(reference_output), as_reals(candidate_output)
    for payload in (reference_output, candidate_output):
        if payload.dtype not in UNIT_ROUNDOFF:
            return undecided(f"an output of dtype {payload.dtype} is not rounded: equal or not is all one can say")
    far = farthest(reference_output, candidate_output) if index is None else None
    oracle = oracle_of(reference, index, also=far)
    total = int(reference_output.bits.size) if total is None else total
    ours, theirs = (values_at(payload, oracle.index) for payload in (reference_output, candidate_output))
    sampled = (oracle.index.size, total)
    if candidate is not None and (gap := _gap(reference, oracle, candidate)) is not None:
        return _other_function(reference, candidate, oracle, *gap, sampled, names)
    sides = (
        measure_side(ours, oracle, reference_output.dtype),
        measure_side(theirs, _as_carried_out(oracle, candidate), candidate_output.dtype),
    )
    evidence = _evidence(oracle, sides, sampled, names)
    if any(side.nonfinite for side in sides):
        counts = ", ".join(f"{side.nonfinite} in the {name}" for name, side in zip(names, sides, strict=True))
        text = f"infinities or NaN where float64 has numbers (or the other way round): {counts}"
        return LocalResult(Verdict.INCONCLUSIVE, text, evidence, sampled=sampled)
    return _same_function(
        reference,
        candidate,
        oracle,
        (ours, theirs),
        (reference_output.dtype, candidate_output.dtype),
        sides,
        evidence,
        sampled,
        names,
    )


def _as_carried_out(oracle: Oracle, op: Operation | None) -> Oracle:
    """The oracle with the roundings of a side that needs several ops for the same function."""
    if op is None or op.calls == 1:
        return oracle
    unit, inner, steps = roundings_of(op, kind_of(op))
    return replace(oracle, unit=max(unit, oracle.unit), inner=max(inner, oracle.inner), steps=max(steps, oracle.steps))


# ------------------------------------------------------------------------------- two functions


def _gap(reference: Operation, oracle: Oracle, candidate: Operation) -> tuple[Array, float] | None:
    """The candidate's float64 outputs and their distance, if it computes another function."""
    if candidate.shape != reference.shape:
        return None
    theirs = evaluate(candidate, oracle.index)
    known = np.isfinite(theirs) & np.isfinite(oracle.exact)
    unequal = np.isfinite(theirs) != np.isfinite(oracle.exact)
    apart = (theirs[known] - oracle.exact[known]) / oracle.scale[known]
    distance = float(np.sqrt(np.mean(np.square(apart)))) if apart.size else 0.0
    unit = max(min(UNIT_ROUNDOFF[candidate.dtype], UNIT_ROUNDOFF["float32"]), UNIT_ROUNDOFF["float64"])
    if distance <= SAME_FUNCTION * unit and not unequal.any():
        return None
    return theirs, float("inf") if unequal.any() else distance


def _other_function(
    op: Operation,
    candidate: Operation,
    oracle: Oracle,
    theirs: Array,
    distance: float,
    sampled: tuple[int, int],
    names: tuple[str, str],
) -> LocalResult:
    measured = Evidence(
        f"in float64, where rounding plays no part, the {names[1]}'s result is {distance:.2g} of the "
        f"output's scale away from the {names[0]}'s",
        {"distance": distance, "scale": "sqrt(sum a**2 b**2) for products and sums, else the error scale S"},
    )
    level = SAME_FUNCTION * min(UNIT_ROUNDOFF[op.dtype], UNIT_ROUNDOFF["float32"])
    known, name = op, names[1]
    accepted = explain(op, oracle, theirs, level, exact=True)
    if accepted is None:  # the other way round: a side that only holds the value knows no formula
        known, name = candidate, names[0]
        accepted = explain(candidate, oracle_of(candidate, oracle.index), oracle.exact, level, exact=True)
    if accepted is None:
        return LocalResult(*_unnamed(op, candidate, distance), (measured,), (), sampled)
    what = "holds the value" if known.name == "value" else f"computes {known.name}"
    reason = (
        f"the {name} {what} with {accepted.text}: its float64 result is within {accepted.distance:.1g} of "
        f"that, {accepted.runner_up:.2g} from {accepted.runner_up_text}"
    )
    accepted = replace(accepted, side=name)
    return LocalResult(accepted.verdict, reason, (measured, _accepted(accepted)), (accepted,), sampled)


def _unnamed(op: Operation, candidate: Operation, distance: float) -> tuple[Verdict, str]:
    """The verdict on two functions that no hypothesis names."""
    far = f"in float64 the two sides still differ by {distance:.2g} of the scale"
    if op.calls > 1 or candidate.calls > 1:
        return Verdict.INCONCLUSIVE, (
            f"{far}: another function, or ops that were paired although they are not counterparts; lifting "
            "the whole program tells which"
        )
    if op.name == candidate.name and op.arguments != candidate.arguments:
        return Verdict.SEMANTIC, f"{far}: {op.name} was given other arguments ({_changed(op, candidate)})"
    return Verdict.SEMANTIC, f"{far}: another function or other values"


def _changed(op: Operation, candidate: Operation) -> str:
    ours, theirs = ([*args, *sorted(kwargs.items())] for args, kwargs in (op.arguments, candidate.arguments))
    if len(ours) != len(theirs):
        return f"{len(ours)} against {len(theirs)}"
    changes = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    return ", ".join(" against ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in pair) for pair in changes)


# ------------------------------------------------------------------------------- one function


def _same_function(
    op: Operation,
    candidate: Operation | None,
    oracle: Oracle,
    values: tuple[Array, Array],
    dtypes: tuple[str, str],
    sides: tuple[Measured, Measured],
    evidence: tuple[Evidence, ...],
    sampled: tuple[int, int],
    names: tuple[str, str],
) -> LocalResult:
    suspects = _suspects(sides)
    found: list[Explanation] = []
    for number in suspects:
        side = sides[number]
        accepted = explain(replace(op, dtype=dtypes[number]), oracle, values[number], ROUNDING_LEVEL * side.level)
        if accepted is not None:
            found.append(replace(accepted, side=names[number]))
            evidence = (*evidence, _accepted(found[-1]))
    if found:
        found.sort(key=lambda one: one.side)  # the candidate first
        worst = max(found, key=lambda one: one.verdict.severity)
        reason = f"the {worst.side} computes {op.name} with {worst.text}: {_distances(worst)}"
        return LocalResult(worst.verdict, reason, evidence, tuple(found), sampled)
    if dtypes[0] != dtypes[1] and all(side.within_bound for side in sides):
        narrow = max((0, 1), key=lambda i: UNIT_ROUNDOFF[dtypes[i]])
        reason = (
            f"both sides compute the same function; the {names[narrow]} stores it as {dtypes[narrow]} "
            f"({sides[narrow].bits:.1f} bits), the {names[1 - narrow]} as {dtypes[1 - narrow]}"
        )
        return LocalResult(Verdict.PRECISION, reason, evidence, sampled=sampled)
    lost = _lost(oracle, values, [op if n == 0 else (candidate or op) for n in (0, 1)], dtypes, sides)
    if lost is not None:
        return _unstable(names, lost, evidence, sampled)
    if not any(_clear(sides, number) for number in suspects):
        return LocalResult(Verdict.ROUNDING, _rounding_reason(oracle, sides), evidence, sampled=sampled)
    return _unexplained(op, oracle.kind, sides, suspects, evidence, sampled, names)


def _lost(
    oracle: Oracle,
    values: tuple[Array, Array],
    ops: Sequence[Operation],
    dtypes: tuple[str, str],
    sides: tuple[Measured, Measured],
) -> Cancelled | None:
    """Whether a formula of one side cancels. A single op that breaks its rounding bound is no formula."""
    known = np.isfinite(values[0]) & np.isfinite(values[1]) & np.isfinite(oracle.exact)
    size = float(np.sqrt(np.mean(np.square(oracle.exact[known])))) if known.any() else 0.0
    if not size:
        return None
    errors = [float(np.sqrt(np.mean(np.square((value - oracle.exact)[known])))) / size for value in values]
    units = [
        max(UNIT_ROUNDOFF[dtype], *roundings_of(op, kind_of(op))[:2]) for dtype, op in zip(dtypes, ops, strict=True)
    ]
    lost = cancelled((errors[0], errors[1]), (units[0], units[1]), int(known.sum()))
    if lost is None or (ops[lost.worse].calls == 1 and not sides[lost.worse].within_bound):
        return None
    return lost


def _unstable(
    names: tuple[str, str], lost: Cancelled, evidence: tuple[Evidence, ...], sampled: tuple[int, int]
) -> LocalResult:
    name, other = names[lost.worse], names[1 - lost.worse]
    reason = (
        f"in float64 both sides agree, and the {name}'s formula loses {lost.lost:.1f} of {lost.digits:.0f} bits of the "
        f"result to rounding, the {other}'s {lost.other:.1f}: it cancels"
    )
    found = Evidence(reason, {"side": name, "lost_bits": lost.lost, "lost_bits_other": lost.other, "bits": lost.digits})
    return LocalResult(Verdict.UNSTABLE, reason, (*evidence, found), sampled=sampled)


def _suspects(sides: tuple[Measured, Measured]) -> list[int]:
    """Sides that rounding alone may not explain, or that are much less exact than the other."""
    z = match_z(*sides)
    found = []
    for number, side in enumerate(sides):
        other = sides[1 - number]
        less_exact = z > CORRECT_ROUNDING_Z if number else z < -CORRECT_ROUNDING_Z
        if (
            _clear(sides, number)
            or not side.at_rounding_level
            or side.spread > PRECISION_CLASS_RATIO * other.spread
            or (less_exact and side.match_rate < other.match_rate)
        ):
            found.append(number)
    return found


def _clear(sides: tuple[Measured, Measured], number: int) -> bool:
    """Whether a side breaks the bound, or is of another precision class and above rounding level."""
    side, other = sides[number], sides[1 - number]
    other_class = side.spread > PRECISION_CLASS_RATIO * other.spread
    # In 16 bits, the output's rounding levels all benign kernels; a sequential float32 sum may lose 5 bits.
    return not side.within_bound or (other_class and (side.narrow or not side.at_rounding_level))


def _unexplained(
    op: Operation,
    kind: str,
    sides: tuple[Measured, Measured],
    suspects: list[int],
    evidence: tuple[Evidence, ...],
    sampled: tuple[int, int],
    names: tuple[str, str],
) -> LocalResult:
    number = next(i for i in reversed(suspects) if _clear(sides, i))
    side, other = sides[number], sides[1 - number]
    name = names[number]
    numbers = (
        f"{side.bits:.1f} bits against {other.bits:.1f}, {side.over} of {side.outputs} outputs over the rounding bound"
    )
    if side.spread > WIDEST_CLASS:
        reason = f"the {name}'s {op.name} errs more than any precision explains: {numbers}"
        return LocalResult(Verdict.SEMANTIC, reason, evidence, sampled=sampled, unexplained=name)
    scales = kind in ("product", "convolution", "sum", "attention")  # T is a precision class only there
    if scales and side.spread > PRECISION_CLASS_RATIO * other.spread and side.over > side.outputs // 100:
        reason = f"the {name}'s {op.name} is of another precision class and no hypothesis names it: {numbers}"
        return LocalResult(Verdict.PRECISION, reason, evidence, sampled=sampled, unexplained=name)
    reason = f"the {name}'s {op.name} errs more than rounding explains and no hypothesis names why: {numbers}"
    return LocalResult(Verdict.INCONCLUSIVE, reason, evidence, sampled=sampled, unexplained=name)


# ------------------------------------------------------------------------------- words


def _rounding_reason(oracle: Oracle, sides: tuple[Measured, Measured]) -> str:
    a, b = sides
    return (
        "both sides are within the rounding bound of the float64 result "
        f"(at most {max(a.excess, b.excess):.2g} of it) and of one precision class "
        f"({a.bits:.1f} and {b.bits:.1f} bits, {oracle.terms} terms)"
    )


def _distances(accepted: Explanation) -> str:
    if accepted.mismatch:
        return (
            f"{accepted.distance:.2%} of the outputs differ from that, {accepted.runner_up:.2%} from "
            f"{accepted.runner_up_text}"
        )
    runner_up = f"{accepted.runner_up:.2g} from {accepted.runner_up_text}"
    return f"{accepted.distance:.2g} of the scale from that, {runner_up}"


def _accepted(accepted: Explanation) -> Evidence:
    return Evidence(
        f"the {accepted.side} matches a replay with {accepted.text}",
        {
            "hypotheses": list(accepted.codes),
            "distance": accepted.distance,
            "runner_up": accepted.runner_up,
            "runner_up_is": accepted.runner_up_text,
            "per": "outputs" if accepted.mismatch else "scale",
        },
    )


def _evidence(
    oracle: Oracle, sides: tuple[Measured, Measured], sampled: tuple[int, int], names: tuple[str, str]
) -> tuple[Evidence, ...]:
    found = []
    for name, side in zip(names, sides, strict=True):
        data: dict[str, Any] = {
            "bound": side.excess,
            "over": side.over,
            "bits": side.bits,
            "level_bits": -float(np.log2(side.level or 1)),
            "match_rate": side.match_rate,
            "lean": side.lean,
            "peak": side.peak,
            "outputs": side.outputs,
        }
        text = (
            f"the {name} errs by at most {side.excess:.2g} of the rounding bound, {side.bits:.1f} bits, "
            f"{side.match_rate:.1%} correctly rounded"
        )
        found.append(Evidence(text, data))
    z = match_z(*sides)
    if abs(z) > CORRECT_ROUNDING_Z:
        text = (
            f"the {names[int(z > 0)]} rounds correctly less often than the other side (z = {abs(z):.1f}); "
            "a hint, many kernels do so by design"
        )
        found.append(Evidence(text, {"z": z}))
    if sampled[0] < sampled[1]:
        found.append(
            Evidence(
                f"judged on {sampled[0]} of {sampled[1]} outputs (seeded sample)",
                {"judged": sampled[0], "outputs": sampled[1]},
            )
        )
    return tuple(found)
