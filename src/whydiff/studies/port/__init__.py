"""Is this port right? One model in two frameworks: which layer first departs, and is it rounding?

Nothing is matched by name. Weights are matched by content: the same numbers, in whatever layout (reported in
einops notation). What reads a matched weight on either side is the same layer, so its operand and its result are
*points* at which the two programs must agree. Both programs are replayed in float32 and in float64, and at each
point the candidate is given the reference's value, so that every point is judged alone: a difference that
shrinks with the precision is rounding, one that stays is a mistake between this point and the ones before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Progress, for_target
from whydiff.errors import UsageError
from whydiff.judge.outputs import recorded_outputs
from whydiff.records import Alignment, Cause, Count, Diagnosis, Growth, Measurement, Origin, Pair, Side, Trace, Verdict
from whydiff.studies.port.naming import Named, explain
from whydiff.studies.port.points import Judged, departs, find_points, judge
from whydiff.studies.port.weights import Weight, match_weights

IMPACT = ("max_abs", "mean_abs", "rel_l2", "different")
"""Metrics of what is returned that are shown as the impact."""


def check_port(
    reference: Callable[..., Any],
    candidate: Callable[..., Any],
    reference_args: Sequence[Any] = (),
    candidate_args: Sequence[Any] = (),
    *,
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare one model in two frameworks (or two implementations in one).

    Args:
        reference: the trusted model.
        candidate: the port.
        reference_args, candidate_args: the same inputs, each in its framework's form.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no weight of the one is in the other.
        TargetError: a program raised.
    """
    traces: list[Any] = []
    for target, args, name in ((reference, reference_args, "reference"), (candidate, candidate_args, "candidate")):
        if progress is not None:
            progress(f"capture the {name}", len(traces), 2)
        run = for_target(target, args).run(target, tuple(args), {})
        trace: Any = run.capture()
        traces.append(replace(trace, observer=run.check(trace)))
    ours, theirs = traces
    weights, counts = match_weights(ours, theirs)
    if not weights:
        raise UsageError(
            "No weight of the reference is in the candidate, in any layout.",
            expected="the same numbers on both sides",
            next_step="load the same checkpoint into both models",
        )
    points, unread = find_points(ours, theirs, weights)
    judged = judge(ours, theirs, points, progress)
    return _diagnosis(ours, theirs, weights, judged, (*counts, *unread))


def _diagnosis(
    reference: Trace, candidate: Trace, weights: Sequence[Weight], judged: Sequence[Judged], counts: Sequence[Count]
) -> Diagnosis:
    named: list[Named | None] = [explain(candidate, one) if _departs(one) else None for one in judged]
    origins = tuple(_origin(one, why) for one, why in zip(judged, named, strict=True) if _departs(one))
    causes = _causes(named)
    differ = [one for one in judged if one.comparison.status == "differs"]
    unknown = [one for one in judged if one.scale is None]
    returned = [one for one in judged if one.point.side == "returned"]
    whole = bool(returned) and {len(recorded_outputs(trace)) for trace in (reference, candidate)} == {len(returned)}
    verdict, reason = _verdict(judged, origins, causes, differ, whole)
    if unknown:
        counts = (
            *counts,
            Count(
                what="points",
                reason="their values have no common layout, or could not be replayed",
                count=len(unknown),
                examples=tuple(str(one.point.events[0].site) for one in unknown[:3]),
            ),
        )
    layouts = ", ".join(f"{w.candidate} is {w.reference}: {w.layout}" for w in weights[:4])
    return Diagnosis(
        verdict=verdict,
        reason=reason,
        origins=origins,
        causes=causes,
        impact=tuple(
            Measurement(m.metric, m.value, one.point.weight.reference)
            for one in returned
            for m in one.comparison.measurements
            if m.metric in IMPACT
        ),
        outputs=tuple((one.point.weight.reference, one.comparison) for one in returned),
        growth=tuple(
            Growth(one.point.events[0].site, one.comparison)
            for one in judged
            if one.point.side != "returned" and one.layout
        ),
        alignment=_alignment(reference, candidate, judged),
        sides=(Side.of(reference), Side.of(candidate)),
        not_compared=tuple(counts),
        accounted=not any(_departs(one) and why is None for one, why in zip(judged, named, strict=True)) or None,
        notes=(
            f"{len(weights)} weights matched by their numbers, {len(judged)} points compared; {layouts}"
            + (" …" if len(weights) > 4 else ""),
        ),
    )


def _departs(one: Judged) -> bool:
    """Whether a difference stays when the programs are lifted."""
    return one.scale is not None and one.scale.nature in ("stays", "between") and departs(one.scale.double)


def _verdict(
    judged: Sequence[Judged], origins: Sequence[Origin], causes: Sequence[Cause], differ: Sequence[Judged], whole: bool
) -> tuple[Verdict, str]:
    """The verdict; ``whole``: every output of both models is among the points."""
    if origins:
        first = origins[0]
        why = f"{causes[0].name}; " if causes else ""
        return Verdict.SEMANTIC, f"{why}the port first departs at {first.site} ({first.evidence[0].statement})"
    if not judged:
        return Verdict.INCOMPARABLE, "no layer that reads a matched weight was found on both sides"
    equal = [one for one in judged if one.comparison.status == "agrees"]
    if not differ and len(equal) == len(judged) and whole:
        return Verdict.IDENTICAL, f"zero bits differ at {len(judged)} points"
    if not differ:
        return Verdict.INCONCLUSIVE, (
            f"because zero bits differ at {len(equal)} of {len(judged)} points, and the rest, or an output, was not compared"
        )
    told = sum(one.scale is not None or one.comparison.status == "agrees" for one in judged)
    return Verdict.ROUNDING, f"at {told} of {len(judged)} points the difference shrinks with the precision"


def _origin(one: Judged, named: Named | None) -> Origin:
    point = one.point
    place = "what is returned" if point.side == "returned" else f"{point.side} the layer with {point.weight.reference}"
    where = f"{place}: lifted, {one.scale}"
    evidence = (_evidence(where), *(named.evidence if named is not None else ()))
    return Origin(
        site=point.events[0].site,
        candidate_site=point.events[1].site,
        kind="region",
        verdict=Verdict.SEMANTIC,
        comparison=one.comparison,
        calls=(point.calls[0].index, point.calls[1].index),
        leaves=(),
        region=(),
        evidence=evidence,
    )


def _evidence(text: str) -> Any:
    from whydiff.records import Evidence

    return Evidence(text)


def _causes(named: Sequence[Named | None]) -> tuple[Cause, ...]:
    """One cause per kind of mistake, at the first site where it was found."""
    found: dict[tuple[str, str], list[Named]] = {}
    for one in named:
        if one is not None:
            found.setdefault((one.cause.code, one.what), []).append(one)
    return tuple(
        replace(some[0].cause, effect=(Measurement("points", float(len(some)), ""),)) for some in found.values()
    )


def _alignment(reference: Trace, candidate: Trace, judged: Sequence[Judged]) -> Alignment:
    pairs = dict.fromkeys((one.point.calls[0].index, one.point.calls[1].index) for one in judged)
    taken = {r for r, _ in pairs}, {c for _, c in pairs}
    left = [
        tuple(call.index for call in trace.calls if call.kind == "compute" and call.index not in some)
        for trace, some in zip((reference, candidate), taken, strict=True)
    ]
    return Alignment(tuple(Pair(r, c, "same weight") for r, c in sorted(pairs)), left[0], left[1])


__all__ = ["Judged", "Weight", "check_port"]
