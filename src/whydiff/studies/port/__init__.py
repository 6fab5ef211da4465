"""Is this port right? One model in two frameworks: which layer first departs, and is it rounding?

Nothing is matched by name. Weights are matched by content: the same numbers, in whatever layout (reported in
einops notation). What reads a matched weight on either side is the same layer, so its operand and its result are
*points* at which the two programs must agree. Both programs are replayed in float32 and in float64, and at each
point the candidate is given the reference's value, so that every point is judged alone: a difference that
shrinks with the precision is rounding, one that stays is a mistake between this point and the ones before it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Progress, Run, for_target
from whydiff.errors import UsageError
from whydiff.explain.case import Case
from whydiff.judge.listing import with_lines
from whydiff.locate.localization import Localization
from whydiff.pair.replay import recorded_outputs
from whydiff.records import (
    Alignment,
    Cause,
    Count,
    Diagnosis,
    Event,
    Evidence,
    Growth,
    Measurement,
    Origin,
    Pair,
    Side,
    Site,
    Trace,
    Verdict,
)
from whydiff.studies.port.as_run import anchor, causes_of_running, opened
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.judging import Judged, departed, judge
from whydiff.studies.port.naming import Named, causes_of, explain
from whydiff.studies.port.points import find_points
from whydiff.studies.port.quantised import quantised
from whydiff.studies.port.weights import Weight, match_weights, told_inputs, widened
from whydiff.takes import Kind, takes

IMPACT = ("max_abs", "mean_abs", "rel_l2", "different")
"""Metrics of what is returned that are shown as the impact."""

_INPUTS = Kind(
    "one input or a tuple of them: a model that takes them by name is wrapped in a function that takes them in order",
    lambda given: not isinstance(given, Mapping),
)


@takes(reference_args=_INPUTS, candidate_args=_INPUTS)
def check_port(
    reference: Callable[..., Any] | str | os.PathLike[str],
    candidate: Callable[..., Any] | str | os.PathLike[str],
    reference_args: Any = (),
    candidate_args: Any = (),
    *,
    progress: Progress | None = None,
) -> Diagnosis:
    """Compare one model in two frameworks (or two implementations in one).

    Args:
        reference: the trusted model, or the path of an ``.onnx`` file.
        candidate: the port, likewise.
        reference_args, candidate_args: the same inputs, each in its framework's form: one input, or a tuple (or list) of them.
        progress: called with (stage, done, total).

    Raises:
        UsageError: no weight of the one is in the other.
        TargetError: a program raised.
    """
    traces: list[Any] = []
    runs: list[Run] = []
    programs = opened(reference), opened(candidate)
    for target, args, name in zip(programs, (reference_args, candidate_args), ("reference", "candidate"), strict=True):
        if progress is not None:
            progress(f"capture the {name}", len(traces), 2)
        given = tuple(args) if isinstance(args, (tuple, list)) else (args,)
        run = for_target(target, given).run(target, given, {})
        runs.append(run)
        trace: Any = run.capture()
        traces.append(replace(trace, observer=run.check(trace)))
    ours, theirs = traces
    weights, counts = match_weights(ours, theirs)
    integers = quantised(ours, theirs)
    known = {weight.reference for weight in weights}
    weights += tuple(
        Weight(one.reference, one.candidate, "in small integers", one.array.ndim)
        for one in integers
        if one.reference not in known
    )
    if not weights:
        raise UsageError(
            "No weight of the reference is in the candidate, in any layout.",
            expected="the same numbers on both sides",
            next_step="load the same checkpoint into both models",
        )
    rounded = {name for one in integers for name in (one.reference, one.candidate)}
    rounded |= {name for weight in weights for name in weight.beside}
    points, unread = find_points(ours, theirs, weights, rounded)
    wide = widened(ours, theirs, weights)
    told = told_inputs(ours, theirs)
    judged, excluded = judge(ours, theirs, points, progress, wide)
    anchor(judged, traces)
    bench = Bench((ours, theirs), judged, excluded, wide=wide, quantised=integers)
    named = explain(bench, progress)
    return _diagnosis(
        bench, weights, named, causes_of_running(bench, runs, progress), (runs[0], runs[1]), (*counts, *unread, *told)
    )


def _diagnosis(
    bench: Bench,
    weights: Sequence[Weight],
    named: dict[int, tuple[Named, ...]],
    running: Sequence[Cause],
    runs: tuple[Run, Run],
    counts: Sequence[Count],
) -> Diagnosis:
    (reference, candidate), judged = bench.traces, bench.judged
    origins = tuple(_origin(bench, one, named[number]) for number, one in departed(judged))
    origins = with_lines(Case(reference, candidate, Alignment(()), Localization(), runs), origins)
    causes = causes_of(bench, named)
    differ = [one for one in judged if one.comparison.status == "differs"]
    unknown = [one for one in judged if one.scale is None]
    returned = [one for one in judged if one.point.side == "returned"]
    whole = bool(returned) and {len(recorded_outputs(trace)) for trace in (reference, candidate)} == {len(returned)}
    verdict, reason = _verdict(judged, origins, causes, differ, whole)
    graver = [cause for cause in running if cause.verdict.severity > verdict.severity]
    causes = (*causes, *running)
    if graver:
        verdict, reason = graver[0].verdict, f"because {graver[0].says}"
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
        not_compared=(*counts, *bench.counts),
        accounted=all(named.values()) or None,
        expected=Verdict.ROUNDING,
        notes=(
            f"{len(weights)} weights matched by their numbers, {len(judged)} points compared; {layouts}"
            + (" …" if len(weights) > 4 else ""),
        ),
    )


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


def _origin(bench: Bench, one: Judged, named: Sequence[Named]) -> Origin:
    point = one.point
    right = {
        (side, other.point.events[side].producer)
        for other in bench.judged
        if other.point.side == "out of" and other.scale is not None and not other.departs(other.scale.double)
        for side in (0, 1)
    }
    sites = [
        event.site if (side, event.producer) in right else _made_at(trace, event)
        for side, (trace, event) in enumerate(zip(bench.traces, point.events, strict=True))
    ]
    place = "what is returned" if point.side == "returned" else f"{point.side} the layer with {point.weight.reference}"
    where = f"{place}: {one.scale}"
    evidence = (Evidence(where), *(name.evidence for name in named))
    return Origin(
        site=sites[0],
        candidate_site=sites[1],
        kind="region",
        verdict=Verdict.SEMANTIC,
        comparison=one.comparison,
        calls=(point.calls[0].index, point.calls[1].index),
        leaves=(),
        region=(),
        evidence=evidence,
    )


def _made_at(trace: Trace, event: Event) -> Site:
    """Where a value is made, if that is another module than the one around what reads it; else where it is read."""
    if event.producer < 0:
        return event.site
    made = trace.calls[event.producer].site
    around = not made.scope or f"{event.site.scope}.".startswith(f"{made.scope}.")
    return event.site if around else made.at("output")


def _alignment(reference: Trace, candidate: Trace, judged: Sequence[Judged]) -> Alignment:
    pairs = dict.fromkeys((one.point.calls[0].index, one.point.calls[1].index) for one in judged)
    taken = {r for r, _ in pairs}, {c for _, c in pairs}
    left = [
        tuple(call.index for call in trace.calls if call.kind == "compute" and call.index not in some)
        for trace, some in zip((reference, candidate), taken, strict=True)
    ]
    return Alignment(tuple(Pair(r, c, "same weight") for r, c in sorted(pairs)), left[0], left[1])


__all__ = ["Judged", "Weight", "check_port"]
