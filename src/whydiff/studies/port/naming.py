"""Which mistake it is: hypotheses that are carried out in float64, each against what both sides computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.causes.fo001 import named
from whydiff.explain.interventions import edits
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN, SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Call, Cause, Direction, Evidence, Experiment, Intervention, Lift, Remedy, Trace, Verdict
from whydiff.studies.port.points import Judged, values_of
from whydiff.studies.port.weights import numbers

Array = np.ndarray[Any, Any]
_CLOSE = SAME_FUNCTION * UNIT_ROUNDOFF["float32"]
_REGION = 48


@dataclass(frozen=True)
class Named:
    """A mistake with its proof.

    Attributes:
        cause: as the report shows it.
        what: tells mistakes of one code apart.
    """

    cause: Cause
    what: str

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Its statements."""
        return self.cause.evidence


def explain(candidate: Trace, one: Judged) -> Named | None:
    """The mistake between a point and the ones before it; None if no hypothesis fits."""
    return _transposed(candidate, one) or _activation(one) or _constant(candidate, one)


def _transposed(candidate: Trace, one: Judged) -> Named | None:
    """The product with the weight's other orientation."""
    if one.result is None or one.point.side != "out of":
        return None
    executor = for_framework(candidate.framework).executor(candidate)
    leaf = next(x for x in candidate.leaves if x.name == one.point.weight.candidate)
    weight = numbers(executor.payload(executor.leaf_value(leaf)))
    if weight.ndim != 2 or weight.shape[0] != weight.shape[1]:
        return None
    ours, theirs = (side.reshape(-1, weight.shape[0]) for side in one.result)
    for x in one.near:
        if x.shape[-1:] != weight.shape[:1] or x.size != ours.size:
            continue
        rows = x.reshape(-1, weight.shape[0])
        options = {"x @ w": rows @ weight, "x @ w.T": rows @ weight.T}
        said = [next((text for text, y in options.items() if _but_for_a_bias(y, side)), "") for side in (ours, theirs)]
        if all(said) and said[0] != said[1]:
            evidence = Evidence(
                f"with w = {leaf.name} the reference computes {said[0]} and the candidate {said[1]}",
                {"weight": leaf.name, "reference": said[0], "candidate": said[1], "layout": one.point.weight.layout},
            )
            text = f"Transpose {leaf.name} when it is loaded into the candidate."
            cause = _cause("FO004", "layout-permuted", one, evidence, Remedy(text), (said[0], said[1]))
            return Named(cause, leaf.name)
    return None


def _activation(one: Judged) -> Named | None:
    """Another activation of an earlier point's value (times another one's, in gated layers)."""
    if one.result is None:
        return None
    ours, theirs = (side.reshape(-1) for side in one.result)
    for x, factor in _inputs(one, ours.size):
        mine, other = named(x, ours / factor), named(x, theirs / factor)
        if mine is None or other is None or mine[0] == other[0]:
            continue
        evidence = Evidence(
            f"the reference applies {mine[0]} ({mine[1]:.1e} of its size away in float64) and the candidate "
            f"{other[0]} ({other[1]:.1e})",
            {"reference": mine[0], "candidate": other[0]},
        )
        remedy = Remedy(f"Use {mine[0]} in the candidate.")
        cause = _cause("FO001", "activation-variant", one, evidence, remedy, (mine[0], other[0]))
        return Named(cause, f"{mine[0]} {other[0]}")
    return None


def _inputs(one: Judged, size: int) -> Iterator[tuple[Array, Any]]:
    near = [x.reshape(-1) for x in one.near[::-1] if x.size == size]
    for x in near:
        yield x, 1.0
    for x in near:
        for factor in near:
            if factor is not x and np.all(factor):
                yield x, factor


def _constant(candidate: Trace, one: Judged) -> Named | None:
    """Another number among the plain arguments between the points, exchanged in a replay."""
    ours = _numbers_before(one.reference, one.point.events[0].producer)
    theirs = _numbers_before(candidate, one.point.events[1].producer)
    lone = [
        [n for n in side if not any(_alike(n, m) for m in other)] for side, other in ((ours, theirs), (theirs, ours))
    ]
    if one.scale is None or one.result is None:
        return None
    before = one.scale.double.mean
    for wanted in lone[0]:
        for number in lone[1]:
            for call, position in theirs[number]:
                change = Intervention("set-argument", str(call.site), (position, wanted))
                after = _after(candidate, one, change)
                if after is None or after * HYPOTHESIS_MARGIN > before:
                    continue
                evidence = Evidence(
                    f"{wanted:.6g} in the reference is {number:.6g} in the candidate ({call.site})",
                    {"reference": wanted, "candidate": number, "before": before, "after": after},
                )
                code = ("FO002", "epsilon-differs") if max(wanted, number) < 1e-2 else ("FO003", "scale-differs")
                remedy = Remedy(f"Use {wanted:.6g} in the candidate.", is_take_away=True, carried_out=True)
                cause = replace(_cause(*code, one, evidence, remedy, ("", "")), interventions=(change,))
                put = _put_in(one, ours[wanted], number, before)
                proofs = (_proof((change,), "take_away", before, after), *([put] if put else []))
                if put is None:
                    reason = "taking it away removes the difference; putting it into the reference does not make it"
                    cause = replace(cause, status="located", reason=reason)
                return Named(replace(cause, experiments=proofs), f"{wanted} {number}")
    return None


def _put_in(one: Judged, calls: list[tuple[Call, Any]], number: float, before: float) -> Experiment | None:
    """The reference with the candidate's number at one of its calls, if it then gives the candidate's value."""
    assert one.result is not None
    for call, position in calls:
        change = Intervention("set-argument", str(call.site), (position, number))
        try:
            exchanged = edits(one.reference, [change])
            executor = for_framework(one.reference.framework).executor(
                one.reference, lift=Lift("float64"), exchanged=exchanged
            )
            given = numbers(values_of(executor, [one.point])[0])
        except WhydiffError:
            continue
        after = float(np.abs(given - one.result[1]).mean())
        if after * HYPOTHESIS_MARGIN <= before:
            return _proof((change,), "put_in", before, after)
    return None


def _proof(changes: tuple[Intervention, ...], direction: Direction, before: float, after: float) -> Experiment:
    return Experiment(
        interventions=changes,
        prediction="only rounding is left at this point",
        outcome=f"in float64 the mean absolute difference is {after:.1e}, and {before:.1e} before",
        status="confirmed",
        method="replay",
        before=before,
        after=after,
        direction=direction,
        left="rounding",
    )


def _numbers_before(trace: Trace, producer: int) -> dict[float, list[tuple[Call, Any]]]:
    """Plain floats of the calls that a value was made from, up to a few dozen of them."""
    found: dict[float, list[tuple[Call, Any]]] = {}
    waiting, seen = [producer], set[int]()
    while waiting and len(seen) < _REGION:
        index = waiting.pop(0)
        if index < 0 or index in seen:
            continue
        seen.add(index)
        call = trace.calls[index]
        waiting += [event.producer for event in call.reads]
        args, kwargs = call.arguments
        for position, value in [*enumerate(args), *kwargs.items()]:
            if isinstance(value, float) and math.isfinite(value):
                found.setdefault(value, []).append((call, position))
    return found


def _alike(one: float, other: float) -> bool:
    """The same number, written in another precision."""
    return math.isclose(one, other, rel_tol=2.0**-8)


def _after(candidate: Trace, one: Judged, change: Intervention) -> float | None:
    """The point's difference in float64 with the change, everything before it given the reference's values."""
    if one.rerun is None:
        return None
    try:
        exchanged = edits(candidate, [change])
        adapter = for_framework(candidate.framework)
        return one.rerun(adapter.executor(candidate, lift=Lift("float64"), exchanged=exchanged))
    except WhydiffError:
        return None


def _but_for_a_bias(product: Array, result: Array) -> bool:
    """Whether a result is a product plus the same numbers in every row (at least two rows)."""
    rest = result - product
    return len(rest) > 1 and _near(result - (rest - rest.mean(0)), result)


def _near(one: Array, other: Array) -> bool:
    return float(np.abs(one - other).mean()) <= _CLOSE * float(np.abs(other).mean())


def _cause(code: str, title: str, one: Judged, evidence: Evidence, remedy: Remedy, formulas: tuple[str, str]) -> Cause:
    """A mistake at a point; ``formulas``: what gives the reference's value there, and what the candidate's."""
    ways: tuple[tuple[Direction, str], ...] = (("take_away", "reference"), ("put_in", "candidate"))
    experiments = tuple(
        Experiment(
            interventions=(),
            prediction=f"the {side}'s value, to rounding",
            outcome=f"carried out in float64 on the same input: {formula} gives it",
            status="confirmed",
            method="replay",
            direction=direction,
            left="rounding",
        )
        for (direction, side), formula in zip(ways, formulas, strict=True)
    )
    return Cause(
        code=code,
        name=title,
        site=str(one.point.events[1].site),
        verdict=Verdict.SEMANTIC,
        evidence=(evidence,),
        remedy=remedy,
        status="confirmed",
        experiments=experiments,
    )
