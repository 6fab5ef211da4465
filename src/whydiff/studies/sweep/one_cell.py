"""One cell: run the program at a size, find the ops whose bits depend on it, measure what becomes of it."""

from __future__ import annotations

import functools
import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Recorded, Run, for_target, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.scale import stays
from whydiff.explain.scaling import measure_scaling
from whydiff.judge.each_origin import judge_origins
from whydiff.judge.verdict import judge
from whydiff.locate.growth import Plain, measure_growth
from whydiff.locate.localization import Localization
from whydiff.locate.origins import find_origins
from whydiff.locate.resynchronised import Resynchronised
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import values
from whydiff.pair.align import align
from whydiff.pair.axes import axes_of
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Alignment, Call, Count, Payload, Slot, Trace, Verdict
from whydiff.studies.sweep.findings import Cell, Found, Judged, Size
from whydiff.studies.sweep.program import Program, arguments

_METRICS = ("different", "max_abs", "mean_abs", "rel_l2")


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that one cell needs, picklable.

    Attributes:
        program: what runs.
        size, against: the two sizes.
        row: which row of the batch is the counterpart of the single run.
        flags: process-wide switches (threads, TF32 …) as they were where the sweep was started.
        kernels: ask which kernels ran.
    """

    program: Program
    size: Size
    against: Size
    row: int = 0
    flags: Mapping[str, Any] = field(default_factory=dict)
    kernels: bool = True


@dataclass(frozen=True, slots=True)
class _Recorded:
    run: Run
    trace: Trace
    repeats: bool | None
    note: str


_PROGRAMS: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
_REFERENCES: OrderedDict[Any, _Recorded] = OrderedDict()
_KEPT = 2


def forget() -> None:
    """Let go of loaded programs and recorded references of this process."""
    _PROGRAMS.clear()
    _REFERENCES.clear()


def loaded(program: Program) -> tuple[Any, Any]:
    """The program's target and inputs, loaded once in a process."""
    return _remember(_PROGRAMS, program.token, program.load)  # type: ignore[no-any-return]


def _remember(store: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    if key not in store:
        store[key] = make()
        while len(store) > _KEPT:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]


def live(job: Job, size: Size) -> tuple[Recorded, Run]:
    """The adapter and a live run of the job's program at a size."""
    target, inputs = loaded(job.program)
    args, kwargs = arguments(inputs, size)
    adapter = for_target(target, (*args, *kwargs.values()))
    if job.size.layout != job.against.layout or size.layout != "contiguous":
        target = functools.partial(_laid_out, target, adapter, size.layout)
    return adapter, adapter.run(target, args, kwargs)


def _laid_out(target: Any, adapter: Recorded, layout: str, *args: Any, **kwargs: Any) -> Any:
    args, kwargs = adapter.laid_out((args, kwargs), layout)
    return target(*args, **kwargs)


def flagged(job: Job, adapter: Recorded) -> AbstractContextManager[None]:
    """The flags of the process that started the sweep, for the length of a block."""
    return adapter.under(job.flags) if job.flags else nullcontext()


def _reference(job: Job) -> _Recorded:
    def record() -> _Recorded:
        _, run = live(job, job.against)
        trace = run.capture()
        check = run.check(trace)
        note = check.note if check.deterministic is False or check.unchanged is False else ""
        return _Recorded(run, trace, check.deterministic, note)

    laid = job.size.layout != job.against.layout
    key = (job.program.token, job.against, laid, tuple(sorted(job.flags.items())))
    return _remember(_REFERENCES, key, record)  # type: ignore[no-any-return]


def recorded_reference(job: Job) -> Trace:
    """The recorded run at the reference size, made once in a process."""
    return _reference(job).trace


def run_cell(job: Job) -> Cell:
    """Carry out one cell; a failure is a cell of status ``failed`` with the reason."""
    began = time.perf_counter()
    try:
        cell = _compared(job)
    except WhydiffError as error:
        cell = Cell(job.size, job.against, "failed", note=" ".join(str(error).split()))
    return replace(cell, seconds=time.perf_counter() - began)


def axes_for(job: Job, reference: Trace, candidate: Trace, alignment: Alignment) -> tuple[Axis, ...]:
    """The axis along which the job's two sizes differ, with where the counterpart begins."""
    if job.size.batch != job.against.batch:
        return (Axis(job.against.batch, job.size.batch, (job.row,), "batch"),)
    if job.size.length != job.against.length:
        found = axes_of(reference, candidate, alignment) or ()
        lengths = (job.against.length, job.size.length)
        starts = next((a.starts for a in found if (a.reference, a.candidate) == lengths), (0,))
        return (Axis(*lengths, starts, "length"),)
    return ()


def _compared(job: Job) -> Cell:
    adapter, run = live(job, job.size)
    with flagged(job, adapter):
        reference = _reference(job)
        if reference.repeats is False:
            note = f"the program does not repeat itself: {reference.note}"
            return Cell(size=job.size, against=job.against, status="failed", repeats=False, note=note)
        trace = run.capture()
        alignment = align(reference.trace, trace)
        axes = axes_for(job, reference.trace, trace, alignment)
        looker = _Looker(adapter, job)
        resynchronised, plain = walks(adapter, reference.trace, trace, alignment, axes, looker)
        return _cell(job, reference, trace, resynchronised, plain, looker)


def walks(
    adapter: Recorded,
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    axes: tuple[Axis, ...],
    on_origin: Any = None,
) -> tuple[Resynchronised, Plain]:
    """The resynchronised and the plain walk over both recorded programs."""
    for trace in (reference, candidate):
        why = replayable(trace)
        if why:
            raise WhydiffError("A run cannot be replayed.", actual=why)

    def executors() -> tuple[Executor, Executor]:
        return adapter.executor(reference), adapter.executor(candidate)

    found = find_origins(*executors(), alignment, axes=axes, on_origin=on_origin)
    plain = measure_growth(*executors(), alignment, axes=axes)
    return found, plain


class _Looker:
    """Writes down, at every origin of the resynchronised walk, what is only known there."""

    def __init__(self, adapter: Recorded, job: Job) -> None:
        self.adapter, self.job = adapter, job
        self.bits: dict[str, str] = {}
        self.kernels: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        self.asked: set[str] = set()

    def __call__(self, step: Lockstep, reference: Call, candidate: Call, look: Look) -> None:
        site = str(look.reference.site)
        if look.candidate_value is not None:
            self.bits[site] = digest(step.candidate.payload(look.candidate_value))
        if self.job.kernels and reference.target not in self.asked:
            self.asked.add(reference.target)
            self.kernels[reference.target] = tuple(  # type: ignore[assignment]
                _kernels(self.adapter, executor, call)
                for executor, call in ((step.reference, reference), (step.candidate, candidate))
            )


def _kernels(adapter: Recorded, executor: Executor, call: Call) -> tuple[str, ...]:
    if call.mutates:
        return ()
    try:
        return tuple(adapter.kernels(executor, call, [executor.read(event) for event in call.reads]))
    except (WhydiffError, RuntimeError) as error:
        return (f"not known: {type(error).__name__}",)


def digest(payload: Payload) -> str:
    """Equal digests are equal bits (dtype, shape and content; 64 bits of SHA-256)."""
    found = hashlib.sha256(f"{payload.dtype}{payload.bits.shape}".encode())
    found.update(np.ascontiguousarray(payload.bits).tobytes())
    return found.hexdigest()[:16]


def _cell(job: Job, reference: _Recorded, trace: Trace, found: Resynchronised, plain: Plain, looker: _Looker) -> Cell:
    cut = [(slot, *counterparts(ours, theirs, found.axes)) for slot, ours, theirs in plain.returned]
    outputs = {str(slot): _measured(ours, theirs) for slot, ours, theirs in cut}
    flips, positions = _flips(cut)
    origins = []
    for origin in found.origins:
        calls = [t.calls[i] for t, i in zip((reference.trace, trace), origin.calls, strict=True) if i >= 0]
        target = calls[0].target if calls else ""
        site = str(origin.site)
        different, max_abs, mean_abs = (origin.comparison.value(metric) or 0.0 for metric in _METRICS[:3])
        origins.append(
            Found(
                site,
                origin.site.op,
                origin.kind,
                looker.bits.get(site, ""),
                different,
                max_abs,
                mean_abs,
                shapes=tuple(str(e.spec) for e in calls[0].reads) if calls else (),
                kernels=looker.kernels.get(target, ((), ())),
                layouts=_layouts(calls),
            )
        )
    bits = hashlib.sha256("".join(f"{slot}{digest(theirs)}" for slot, _, theirs in cut).encode()).hexdigest()[:16]
    same = not origins and not any(m["different"] for m in outputs.values())
    growth = tuple(
        (g.site.scope, g.comparison.value("mean_abs") or 0.0, g.comparison.value("max_abs") or 0.0)
        for g in plain.growth
        if g.comparison.status == "differs"
    )
    counts: dict[Count, None] = dict.fromkeys((*plain.counts, *found.counts))
    return Cell(
        size=job.size,
        against=job.against,
        status="identical" if same else "differs",
        outputs=outputs,
        bits=bits,
        flips=flips,
        positions=positions,
        found=tuple(origins),
        growth=growth,
        accounted=found.accounted,
        not_compared=tuple(counts),
        repeats=reference.repeats,
        note=reference.note,
    )


def _layouts(calls: Sequence[Call]) -> tuple[str, ...]:
    """What a pair of calls reads that lies otherwise in memory: other strides, another alignment."""
    if len(calls) < 2:
        return ()
    texts = []
    for ours, theirs in zip(calls[0].reads, calls[1].reads, strict=False):
        described = [
            f"strides {list(e.spec.strides)}, {'' if e.spec.is_dense else 'not '}contiguous, offset {e.spec.offset}"
            for e in (ours, theirs)
        ]
        if described[0] != described[1]:
            texts.append(f"{ours.site.slot}: {described[0]} → {described[1]}")
    return tuple(texts)


def _measured(reference: Payload, candidate: Payload) -> dict[str, float]:
    comparison = compare_payloads(reference, candidate)
    if not comparison.measurements:
        return {"different": float(comparison.status != "agrees")}
    return {metric: comparison.value(metric) or 0.0 for metric in _METRICS}


def _flips(cut: list[tuple[Slot, Payload, Payload]]) -> tuple[int, int]:
    flips = positions = 0
    for _, ours, theirs in cut:
        if ours.bits.shape != theirs.bits.shape or ours.bits.ndim < 2 or ours.bits.shape[-1] < 2:
            continue
        one, other = values(ours.bits, ours.dtype), values(theirs.bits, theirs.dtype)
        if one.dtype.kind != "f":
            continue
        changed = one.argmax(-1) != other.argmax(-1)
        flips, positions = flips + int(changed.sum()), positions + int(changed.size)
    return flips, positions


def judge_cell(job: Job) -> Judged:
    """The verdict of one cell by the scaling test (both programs lifted to float32 and float64)."""
    adapter, run = live(job, job.size)
    with flagged(job, adapter):
        reference = _reference(job)
        trace = run.capture()
        alignment = align(reference.trace, trace)
        axes = axes_for(job, reference.trace, trace, alignment)
        found, plain = walks(adapter, reference.trace, trace, alignment, axes)
        local = Localization(
            origins=found.origins,
            growth=plain.growth,
            returned=plain.returned,
            accounted=found.accounted,
            agreeing=plain.agreeing,
            propagated=plain.differing,
            counts=found.counts,
            axes=axes,
            outputs=tuple((slot, compare_payloads(*counterparts(r, c, axes))) for slot, r, c in plain.returned),
        )
        case = Case(reference.trace, trace, alignment, local, (reference.run, run))
        scaling = measure_scaling(case)
        origins = judge_origins(case, (), scaling)
        verdict, reason = judge(case, origins, (), scaling)
    severest: dict[str, Verdict] = {}
    for origin in origins:
        site = str(origin.site)
        known = severest.get(site)
        if known is None or origin.verdict.severity > known.severity:
            severest[site] = origin.verdict
    lifted = scaling.program.lifted
    beyond = lifted.double.mean if lifted is not None and stays(lifted) else None
    return Judged(job.size, verdict, reason, severest, beyond)
