"""Remedies, carried out: does the outputs' dependence on the size go away, what is left, what does it cost?"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from whydiff.capturing.adapters import Outputs, Progress, Recorded, Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.causes import in_pieces
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Payload
from whydiff.studies.sweep.findings import Size, Tried
from whydiff.studies.sweep.one_cell import Job, flagged, live
from whydiff.studies.sweep.report import Sweep

MOST_SIZES = 12
"""Sizes at which a remedy is tried: spread over those that differ, the smallest and the largest among them."""
_REPEATS = 3


def candidates(study: Sweep, framework: str = "torch") -> list[tuple[str, tuple[str, ...], Any, str]]:
    """(name, ops, value, code) of the remedies that concern what was found, as a user of the framework writes them."""
    ops = study.variant_ops
    roles = {role for op in ops for role in for_framework(framework).roles(op)}
    if study.axis == "layout":
        return [("contiguous", ops, None, "x = x.contiguous()  # before the model")]
    found: list[tuple[str, tuple[str, ...], Any, str]] = []
    for rows in (16, 64, 256) if Role.MATRIX in roles else (16,):
        found.append(("fixed-row-chunks", ops, rows, in_pieces(framework, ops, rows, study.axis).code))
    if Role.ATTENTION in roles:
        code = "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):\n    model(...)"
        found.append(("sdpa-backend", ops, "MATH", code))
    dtypes = {shape.partition("[")[0] for cell in study.cells for one in cell.found for shape in one.shapes}
    for wide, narrow in (("float32", {"bfloat16", "float16"}), ("float64", {"float32"})):
        if dtypes & narrow:
            found.append(("upcast", ops, wide, f"# {', '.join(ops)} in {wide}, results rounded back"))
    return found


def try_remedies(
    adapter: Recorded, jobs: Sequence[Job], study: Sweep, progress: Progress | None = None
) -> tuple[Tried, ...]:
    """Carry every candidate out; those that work come first, the cheapest before the others."""
    differing = {cell.size for cell in study.cells if cell.status == "differs"}
    chosen = _spread([job for job in jobs if job.size in differing])
    if not adapter.remedies or not chosen:
        return ()
    tried = []
    options = candidates(study, adapter.name)
    for number, (name, ops, value, code) in enumerate(options):
        if progress is not None:
            progress("try remedies", number, len(options))
        title = name if value is None else f"{name} ({value})"
        try:
            tried.append(_try(chosen, title, ops, code, functools.partial(adapter.remedy, name, ops, value)))
        except (WhydiffError, RuntimeError, TypeError, ValueError) as error:
            text = f"{error.what} {error.actual}" if isinstance(error, WhydiffError) else str(error)
            tried.append(Tried(title, ops, code=code, failed=" ".join(text.split())[:200]))
    if progress is not None:
        progress("try remedies", len(options), len(options))
    return tuple(sorted(tried, key=lambda one: (not one.works, one.cost)))


def _spread(jobs: list[Job]) -> list[Job]:
    ordered = sorted(jobs, key=lambda job: (max(job.size.batch, 1) * max(job.size.length, 1), job.size))
    if len(ordered) <= MOST_SIZES:
        return ordered
    step = (len(ordered) - 1) / (MOST_SIZES - 1)
    return [ordered[round(n * step)] for n in range(MOST_SIZES)]


def _try(jobs: Sequence[Job], name: str, ops: tuple[str, ...], code: str, mode: Any) -> Tried:
    equal, largest, shift = 0, 0.0, 0.0
    references: dict[Size, tuple[dict[str, Payload], dict[str, Payload]]] = {}
    for job in jobs:
        if job.against not in references:
            references[job.against] = _run(job, job.against, nullcontext()), _run(job, job.against, mode())
            shift = max(shift, _apart(*references[job.against], ())[1])
        axes: tuple[Axis, ...] = ()
        if job.size.batch != job.against.batch:
            axes = (Axis(job.against.batch, job.size.batch, (job.row,)),)
        elif job.size.length != job.against.length:
            axes = (Axis(job.against.length, job.size.length, (0, job.size.length - job.against.length)),)
        same, apart = _apart(references[job.against][1], _run(job, job.size, mode()), axes)
        equal, largest = equal + same, max(largest, apart)
    cost = _cost(jobs[-1], mode)
    return Tried(name, ops, equal, len(jobs), largest, shift, cost, str(jobs[-1].size), code)


def _run(job: Job, size: Size, mode: AbstractContextManager[Any]) -> dict[str, Payload]:
    adapter, run = live(job, size)
    with flagged(job, adapter), mode:
        outputs: Outputs = run.plain()
    return {slot: adapter.to_payload(value) for slot, value in outputs}


def _apart(reference: dict[str, Payload], candidate: dict[str, Payload], axes: tuple[Axis, ...]) -> tuple[bool, float]:
    """Whether all counterparts agree bit for bit, and the largest absolute difference."""
    found = [compare_payloads(*counterparts(reference[slot], candidate[slot], axes)) for slot in reference]
    return all(c.status == "agrees" for c in found), max((c.value("max_abs") or 0.0 for c in found), default=0.0)


def _cost(job: Job, mode: Any) -> float:
    """Median time with the remedy over the median time without, in turns."""
    adapter, run = live(job, job.size)
    plain: list[float] = []
    remedied: list[float] = []
    with flagged(job, adapter):
        for _ in range(_REPEATS):
            for times, made in ((plain, nullcontext()), (remedied, mode())):
                with made:
                    began = time.perf_counter()
                    run.plain()
                    times.append(time.perf_counter() - began)
    ratio: float = statistics.median(remedied) / max(statistics.median(plain), 1e-9)
    return ratio
