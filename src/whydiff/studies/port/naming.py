"""Which mistake it is: hypotheses that are carried out in float64 on either side, on two inputs, and proven together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Progress
from whydiff.errors import WhydiffError
from whydiff.explain.causes import activation, by_code
from whydiff.numbers.tolerance import HYPOTHESIS_MARGIN
from whydiff.records import Cause, Direction, Evidence, Experiment, Intervention, Measurement, Remedy, Status, Verdict
from whydiff.studies.port.bench import UNFIT, Bench, distance, near
from whydiff.studies.port.hypotheses import Hypothesis, Tried, fitting
from whydiff.studies.port.judging import Judged, departed
from whydiff.studies.port.rewrites import NOTHING, Rewrite
from whydiff.studies.port.variants import propose

Array = np.ndarray[Any, Any]
COMPUTE = "compute"


@dataclass(frozen=True)
class Named:
    """A mistake at one point.

    Attributes:
        hypothesis: which.
        tried: how it was shown.
        evidence: the measured statement.
    """

    hypothesis: Hypothesis
    tried: Tried
    evidence: Evidence


def explain(bench: Bench, progress: Progress | None = None) -> dict[int, tuple[Named, ...]]:
    """Per departing point the mistakes between it and the points before; none if no hypothesis fits.

    What explained one point is tried first at the next ones.
    """
    found: dict[int, tuple[Named, ...]] = {}
    known: list[tuple[Any, ...]] = []
    points = [*departed(bench.judged)]
    for done, (number, one) in enumerate(points):
        if progress is not None:
            progress("name what departs", done, len(points))
        found[number] = _at(bench, number, one, known)
        known = [*(name.hypothesis.mistake for name in found[number]), *known]
    return found


def _at(bench: Bench, number: int, one: Judged, known: Sequence[tuple[Any, ...]]) -> tuple[Named, ...]:
    try:
        hypotheses = [*propose(bench, number)]
    except WhydiffError:
        hypotheses = []
    rank = {mistake: place for place, mistake in enumerate(known)}
    hypotheses.sort(key=lambda h: rank.get(h.mistake, len(rank)))
    if hypotheses and hypotheses[0].mistake not in rank:
        activation = _activation(one)
        if activation is not None:
            return (activation,)
    tried = fitting(bench, number, hypotheses)
    if tried is None:
        activation = _activation(one)
        return () if activation is None else (activation,)
    return tuple(Named(h, tried, _shown(h, tried)) for h in tried.hypotheses)


def _shown(hypothesis: Hypothesis, tried: Tried) -> Evidence:
    told, others = (("reference", "candidate"), ("candidate", "reference"))[hypothesis.teller]
    instead = hypothesis.said[1 - hypothesis.teller]
    beside = len(tried.hypotheses) - 1
    text = (
        f"the {told} rewritten so ({instead}){' with the other mistake here' if beside else ''} gives the {others}'s value: "
        f"in float64 they are {tried.after:.1e} apart, and {tried.before:.1e} before"
        + ("; on another input too" if tried.second else "")
    )
    data = {
        "reference": hypothesis.said[0],
        "candidate": hypothesis.said[1],
        "before": tried.before,
        "after": tried.after,
    }
    return Evidence(text, data)


def _activation(one: Judged) -> Named | None:
    """Another activation of an earlier point's value (times another one's, in gated layers)."""
    if one.result is None:
        return None
    ours, theirs = (side.reshape(-1) for side in one.result)
    for x, factor in _inputs(one, ours.size):
        mine, other = activation(x, ours / factor), activation(x, theirs / factor)
        if mine is None or other is None or mine[0] == other[0]:
            continue
        hypothesis = Hypothesis(
            code="FO001",
            says=f"the candidate applies {other[0]}, the reference {mine[0]}",
            said=(mine[0], other[0]),
            fix=f"Let the candidate apply {mine[0]}, as the reference does.",
            teller=0,
            mine=Rewrite(),
        )
        evidence = Evidence(
            f"the reference applies {mine[0]} ({mine[1]:.1e} of its size away in float64) and the candidate "
            f"{other[0]} ({other[1]:.1e})",
            {"reference": mine[0], "candidate": other[0]},
        )
        before = distance(ours, theirs)
        after = other[1] * float(np.abs(theirs).mean())
        tried = Tried((hypothesis,), NOTHING, NOTHING, before=before, after=after, back=None, second=None)
        return Named(hypothesis, tried, evidence)
    return None


def _inputs(one: Judged, size: int) -> Iterator[tuple[Array, Any]]:
    near_by = [x.reshape(-1) for x in one.near[::-1] if x.size == size]
    for x in near_by:
        yield x, 1.0
    for x in near_by:
        for factor in near_by:
            if factor is not x and np.all(factor):
                yield x, factor


def causes_of(bench: Bench, found: dict[int, tuple[Named, ...]]) -> tuple[Cause, ...]:
    """One cause per mistake, wherever it was made, the largest effect first; proven as far as it could be."""
    groups: dict[tuple[Any, ...], list[tuple[int, Named]]] = {}
    for number, some in found.items():
        for name in some:
            groups.setdefault(name.hypothesis.mistake, []).append((number, name))
    together = _together(bench, found)
    causes = [_cause(bench, some, together) for some in groups.values()]
    return tuple(sorted(causes, key=lambda cause: -cause.size))


def _cause(bench: Bench, some: Sequence[tuple[int, Named]], together: bool | None) -> Cause:
    number, first = some[0]
    hypothesis, tried = first.hypothesis, first.tried
    experiments = tuple(_proofs(bench, number, first))
    status: Status = "confirmed"
    reason = ""
    if together is False:
        status, reason = (
            "inconclusive",
            "rewritten everywhere at once, the reference does not give the candidate's outputs",
        )
    own = hypothesis.other if tried.back is not None else Rewrite()
    effect = [Measurement("points", float(len(some)), "")]
    alone = _alone(bench, some)
    if alone is not None:
        effect.append(Measurement("one_in", alone, "elements"))
    sides = (hypothesis.mine, own) if hypothesis.teller == 0 else (own, hypothesis.mine)
    shown = _interventions(bench, number, sides[1], hypothesis.said[0], 1)
    return Cause(
        code=hypothesis.code,
        name=by_code(hypothesis.code).name,
        site=str(bench.judged[number].point.events[1].site),
        verdict=Verdict.SEMANTIC,
        evidence=(first.evidence,),
        remedy=Remedy(
            hypothesis.fix, undoes="either" if sides[1] else "", carried_out=bool(sides[1]) and status == "confirmed"
        ),
        status=status,
        reason=reason,
        experiments=experiments,
        interventions=shown,
        put_in=_interventions(bench, number, sides[0], hypothesis.said[1], 0),
        effect=tuple(effect),
        says=hypothesis.says,
    )


def _interventions(bench: Bench, number: int, rewrite: Rewrite, said: str, side: int) -> tuple[Intervention, ...]:
    """What is done to one side, as the report names it: arguments, state, or steps that are computed."""
    trace = bench.traces[side]
    calls = [Intervention(COMPUTE, str(trace.calls[index].site), said) for index in rewrite.calls]
    state = [Intervention("restore-state", name, said) for name in rewrite.leaves]
    found = (*rewrite.edits, *state, *calls)
    return found or (Intervention(COMPUTE, str(bench.judged[number].point.events[side].site), said),)


def _proofs(bench: Bench, number: int, name: Named) -> Iterator[Experiment]:
    """Both directions, as they were carried out."""
    hypothesis, tried = name.hypothesis, name.tried
    ways: tuple[tuple[Direction, int], ...] = (("take_away", 1), ("put_in", 0))
    for direction, side in ways:
        told = hypothesis.teller == side
        after = tried.after if told else tried.back
        rewrite = hypothesis.mine if told else hypothesis.other
        said = hypothesis.said[1 - side]
        shown = _interventions(bench, number, rewrite if after is not None else Rewrite(), said, side)
        where = "the point's value"
        outcome = (
            f"in float64 the mean absolute difference of {where} is {after:.1e}, and {tried.before:.1e} before"
            if after is not None
            else f"carried out in float64 on the same input: {said} gives it"
        )
        yield Experiment(
            interventions=shown,
            prediction=f"the {('candidate', 'reference')[side]}'s value, to rounding",
            outcome=outcome,
            status="confirmed",
            method="replay",
            before=tried.before,
            after=after,
            direction=direction,
            left="rounding",
        )


def _rewritten(some: Sequence[tuple[int, Named]], side: int) -> tuple[Rewrite, set[int]]:
    """What is done to one side at all these points, and the points whose value cannot be had so."""
    whole, given, done = Rewrite(), set[int](), set[int]()
    here = [name.hypothesis.mistake for _, name in some]
    for number, name in some:
        hypothesis, tried = name.hypothesis, name.tried
        if id(tried) in done:
            continue
        together = all(part.mistake in here for part in tried.hypotheses)
        if together:
            done.add(id(tried))
            part = tried.mine if hypothesis.teller == side else tried.other
        else:
            part = hypothesis.mine if hypothesis.teller == side else hypothesis.other if tried.other else NOTHING
        joined = _merged(whole, part) if part else None
        if joined is None:
            given.add(number)
        else:
            whole = joined
    return whole, given


def _merged(whole: Rewrite, part: Rewrite) -> Rewrite | None:
    """Both; what both make of one leaf is made once (it is read at several points)."""
    leaves = {name: make for name, make in part.leaves.items() if name not in whole.leaves}
    edits = tuple(edit for edit in part.edits if edit not in whole.edits)
    if whole.calls.keys() & part.calls.keys():
        return None
    return Rewrite({**whole.leaves, **leaves}, {**whole.calls, **part.calls}, (*whole.edits, *edits))


def _together(bench: Bench, found: dict[int, tuple[Named, ...]]) -> bool | None:
    """Whether the reference with all mistakes returns what the candidate does; None: not all are known, or not to be had."""
    some = [(number, name) for number, names in found.items() for name in names]
    if not some or not all(found.values()) or any(name.hypothesis.jumps for _, name in some):
        return None
    rewrite, given = _rewritten(some, 0)
    if given:
        return None
    try:
        plain, made, wanted = bench.outputs(0), bench.outputs(0, rewrite), bench.outputs(1)
    except UNFIT as error:
        bench.unfit(error, "all together: ")
        return None
    if [x.size for x in made] != [x.size for x in wanted]:
        return None
    pairs = [(m, w.reshape(m.shape), p) for m, w, p in zip(made, wanted, plain, strict=True) if m.shape == w.shape]
    if len(pairs) != len(made):
        return None
    return all(near(m, w, max(distance(p, w), distance(m, w) * HYPOTHESIS_MARGIN), bench.unit) for m, w, p in pairs)


def _alone(bench: Bench, some: Sequence[tuple[int, Named]]) -> float | None:
    """How far this mistake alone moves the outputs of the reference; None: it cannot be put in there by itself."""
    rewrite, given = _rewritten(some, 0)
    if given or not rewrite:
        return None
    try:
        plain, made = bench.outputs(0), bench.outputs(0, rewrite)
    except UNFIT as error:
        bench.unfit(error, "alone: ")
        return None
    moved = [distance(one, other) for one, other in zip(plain, made, strict=True) if one.shape == other.shape]
    return sum(moved) / len(moved) if moved else None
