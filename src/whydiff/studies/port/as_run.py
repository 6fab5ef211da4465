"""A port as it is really run: what the runtime's rewritings, a narrower dtype and an overflow do to its outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Progress, Run, for_framework
from whydiff.errors import UsageError, meant
from whydiff.explain.ladder import Climb, climb
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.formats import FORMATS, round_to
from whydiff.numbers.rearrangement import Rearrangement
from whydiff.records import (
    Call,
    Cause,
    Direction,
    Evidence,
    Experiment,
    Intervention,
    Measurement,
    Payload,
    Remedy,
    Trace,
    Verdict,
)
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.judging import Judged
from whydiff.studies.port.rewrites import Program
from whydiff.studies.port.weights import numbers, rearranged

Array = np.ndarray[Any, Any]


def opened(side: Callable[..., Any] | str | os.PathLike[str]) -> Callable[..., Any]:
    """A side as a program: the path of an ``.onnx`` file is opened.

    Raises:
        UsageError: it is no such file.
        MissingPackageError: what runs such files is not installed.
    """
    if isinstance(side, (str, os.PathLike)):
        path = Path(side)
        if not path.is_file():
            near = meant(path.name, (file.name for file in path.parent.glob("*.onnx")))
            raise UsageError(
                "There is no such file.",
                where=str(path),
                actual="a folder" if path.exists() else "nothing at this path",
                expected=near or "a model, or the path of an .onnx file",
            )
        return for_framework("onnx").program(Path(side))
    return side


def anchor(judged: Sequence[Judged], traces: Sequence[Trace]) -> None:
    """Compare what both programs really gave back, where observing changed it."""
    for one in judged:
        if one.point.side != "returned" or one.layout is None:
            continue
        given = [_returned(trace, event.site.slot) for trace, event in zip(traces, one.point.events, strict=True)]
        if given[0] is not None and given[1] is not None:
            one.comparison = _compared(given[0], given[1], one.layout)


def _returned(trace: Trace, slot: str) -> Payload | None:
    found = [o.payload for o in trace.outputs or () if o.slot.name == slot and o.kind == "numbers"]
    return found[-1] if found else None


def _compared(ours: Payload, theirs: Payload, layout: Rearrangement) -> Any:
    return compare_payloads(ours, replace(theirs, bits=rearranged(theirs.bits, layout.inverse, ours.bits.shape)))


_FILES = ("onnx",)
"""Frameworks whose programs are files that a runtime rewrites; what a compiler makes of a function asks `whydiff.compare`."""


def causes_of_running(bench: Bench, runs: Sequence[Run], progress: Progress | None) -> tuple[Cause, ...]:
    """What the way in which the candidate is run does to its outputs."""
    found = [*_overflows(bench), *_narrow(bench)]
    if bench.traces[1].framework not in _FILES:
        return tuple(found)
    climbed = climb(runs[1], "candidate", progress)
    return (*found, *([] if climbed is None else _rewritten(climbed, runs[1])))


def _rewritten(climbed: Climb, run: Run) -> Iterator[Cause]:
    """The runtime's rewriting that changes bits: the program without it gives what it gives unrewritten."""
    if climbed.rung is None:
        return
    part = climbed.part
    named = f"{part.name}: {part.says}" if part is not None else climbed.rung.adds
    flag = Intervention("set-flag", "optimisation", part.name if part is not None else climbed.below)
    yield Cause(
        code="CP003",
        name="compiled-otherwise",
        site="",
        verdict=Verdict.ROUNDING,
        evidence=(Evidence(str(climbed), {"rung": climbed.rung.name, "apart": climbed.whole}),),
        remedy=Remedy(f"Accept it, or leave {flag.value} out where bits must be equal.", accepts=True),
        status="located",
        reason="leaving a rewriting out shows where bits change, and not that they ought not to",
        experiments=(
            Experiment(
                interventions=(flag,),
                prediction="the outputs of the graph as it is written",
                outcome=str(climbed),
                status="confirmed",
                method="rerun",
                before=climbed.whole,
                after=0.0,
                left="nothing",
            ),
        ),
        effect=(Measurement("rewritten", climbed.whole, "abs(reference)"),),
        says=f"the runtime rewrites the graph ({named}), which changes the outputs' bits",
    )


def _narrow(bench: Bench) -> Iterator[Cause]:
    """A candidate that computes in 16 bits what the reference computes in more."""
    kinds = [_dtypes(trace) for trace in bench.traces]
    narrow = sorted(name for name in kinds[1] - kinds[0] if name in ("float16", "bfloat16"))
    if not narrow:
        return
    returned = [one for one in bench.judged if one.point.side == "returned" and one.scale is not None]
    before = max((one.comparison.value("mean_abs") or 0.0 for one in returned), default=0.0)
    after = max((one.scale.single.mean for one in returned if one.scale is not None), default=0.0)
    if not before or not after < before:
        return
    name = narrow[0]
    yield Cause(
        code="PR002",
        name="narrower-dtype",
        site="",
        verdict=Verdict.PRECISION,
        evidence=(
            Evidence(
                f"carried out in float32 on the reference's numbers, the candidate is {after:.1e} apart from it, and "
                f"{before:.1e} as it is run",
                {"before": before, "after": after, "dtype": name},
            ),
        ),
        remedy=Remedy(
            f"Keep the candidate in float32, or accept what {name} makes.", undoes="candidate", carried_out=True
        ),
        status="located",
        reason="the reference was not run in the narrower dtype",
        experiments=(
            Experiment(
                interventions=(Intervention("set-dtype", "program", "float32"),),
                prediction="only float32's rounding is left",
                outcome=f"the outputs' mean absolute difference is {after:.1e}, and {before:.1e} before",
                status="confirmed",
                before=before,
                after=after,
                left="rounding",
            ),
        ),
        effect=(Measurement("one_in", before, "elements"),),
        says=f"the candidate computes in {name}, the reference does not",
    )


def _dtypes(trace: Trace) -> set[str]:
    return {event.spec.dtype for call in trace.calls for event in call.writes}


def _overflows(bench: Bench) -> Iterator[Cause]:
    """The first call of the candidate whose recorded result is infinite although what it read is finite."""
    trace = bench.traces[1]
    for call in trace.calls:
        event = next(iter(call.writes), None)
        payload = None if event is None or not event.payload else trace.payload(event.payload)
        if event is None or payload is None or event.spec.dtype not in FORMATS:
            continue
        made = numbers(payload)
        if np.isfinite(made).all() or not all(_finite(trace, read.payload) for read in call.reads):
            continue
        cause = _overflow(bench, call, made, event.spec.dtype)
        if cause is not None:
            yield cause
        return


def _finite(trace: Trace, key: str) -> bool:
    payload = trace.payload(key) if key else None
    return payload is None or bool(np.isfinite(numbers(payload)).all())


def _overflow(bench: Bench, call: Call, made: Array, dtype: str) -> Cause | None:
    """Taken away: in float64 it is finite. Put in: those numbers, rounded to the dtype, are infinite where it is."""
    wide: list[Array] = []

    def see(executor: Any, at: Call) -> None:
        if at.index == call.index:
            wide.append(numbers(executor.payload(executor.written(call.writes[0]))))

    Program(bench.traces[1], bench.wide).run(watch=see, until=call.index + 1)
    if not wide or not np.isfinite(wide[0]).all():
        return None
    with np.errstate(over="ignore"):
        again = round_to(wide[0], dtype)
    if not np.array_equal(np.isfinite(again), np.isfinite(made)):
        return None
    largest, limit = float(np.abs(wide[0]).max()), FORMATS[dtype].largest
    count = int((~np.isfinite(made)).sum())
    ways: tuple[tuple[Direction, str], ...] = (
        ("take_away", f"in float64 all are finite, the largest {largest:.4g}"),
        ("put_in", f"rounded to {dtype}, {count} are infinite, the same as in the run"),
    )
    return Cause(
        code="OV001",
        name="overflow",
        site=str(call.site),
        verdict=Verdict.UNSTABLE,
        evidence=(
            Evidence(
                f"{count} of {made.size} values are infinite in {dtype}, whose largest number is {limit:.6g}; in float64 "
                f"they reach {largest:.4g}",
                {"count": count, "largest": largest, "limit": limit},
            ),
        ),
        remedy=Remedy(f"Keep {call.site.op} ({call.site.scope or 'the top'}) in float32 when the model is converted."),
        status="confirmed",
        experiments=tuple(
            Experiment(
                interventions=(Intervention("set-dtype", str(call.site), name),),
                prediction="finite" if direction == "take_away" else "infinite in the same places",
                outcome=outcome,
                status="confirmed",
                direction=direction,
                left="rounding",
            )
            for (direction, outcome), name in zip(ways, ("float64", dtype), strict=True)
        ),
        effect=(Measurement("one_in", float(count), "elements"),),
        says=f"the candidate overflows {dtype} at {call.site}",
    )
