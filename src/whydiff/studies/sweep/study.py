"""The sweep: plan cells, carry them out here or on any executor, group, judge, name causes, try remedies."""

from __future__ import annotations

import os
import pickle
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

from whydiff.capturing.adapters import Progress, for_target
from whydiff.errors import Interrupted, TargetError, UsageError
from whydiff.records import Environment, Verdict
from whydiff.report.base import check_file
from whydiff.studies.sweep.findings import Axis, Cell, Judged, Size
from whydiff.studies.sweep.grouping import classes, representatives
from whydiff.studies.sweep.naming import name_causes
from whydiff.studies.sweep.one_cell import Job, forget, judge_cell, loaded, run_cell
from whydiff.studies.sweep.orders import asked, reveal_orders, with_orders
from whydiff.studies.sweep.program import Given, Program, arguments, rows_of, sizes
from whydiff.studies.sweep.remedies import try_remedies
from whydiff.studies.sweep.report import Sweep
from whydiff.studies.sweep.stored import Stored
from whydiff.takes import COUNT, NAMES, NUMBER, PATH, SIZES, one_of, takes

MOST_JUDGED = 6
"""Representatives that the scaling test judges (each costs about twelve runs)."""

Sizes = str | int | Sequence[int]


@takes(
    batch=SIZES,
    length=SIZES,
    layout=NAMES,
    against=one_of("batch", "length", "layout"),
    row=COUNT,
    workers=NUMBER,
    resume=PATH,
)
def sweep(
    target: Any,
    inputs: Any = None,
    *,
    batch: Sizes | None = None,
    length: Sizes | None = None,
    layout: str | Sequence[str] | None = None,
    against: Axis | None = None,
    row: int = 0,
    executor: Executor | None = None,
    workers: int = 1,
    resume: str | os.PathLike[str] | None = None,
    remedies: bool = True,
    kernels: bool = True,
    orders: bool = True,
    progress: Progress | None = None,
) -> Sweep:
    """Run a program at many sizes and say which ops change their bits with the size, and why.

    One row (or the common positions) of every larger run is compared with the run at the reference size: the
    smallest batch for each length if several batches are given, else the shortest length, else the contiguous
    layout.

    Args:
        target: a model, any callable, or a `program.Program`.
        inputs: a function ``inputs(batch, length)`` whose row 0 (first positions) is the same at every size, or
            arguments at the largest size, from which rows and positions are cut.
        batch: batch sizes: ``"1,2,4"``, ``"1..8"`` or whole numbers.
        length: lengths, likewise.
        layout: memory layouts of the inputs beside the contiguous one (``"transposed,strided,offset"``).
        against: the axis along which sizes are compared, if not the default.
        row: row of the batch that is the counterpart of the single run (with ``inputs`` given as arguments, the
            single run gets row 0, so another row needs a function).
        executor: any `concurrent.futures.Executor` (processes, a Dask or Ray client); the result is the same.
        workers: processes to use if no executor is given; 1: this process. Each worker uses as many threads as
            this process, because threads change bits; so more workers than cores / threads only cost time.
        resume: a file of finished cells; nothing in it is run again.
        remedies: try what makes the sizes agree.
        kernels: ask which kernels ran.
        orders: reveal in which order each class of sizes adds up, if the difference is rounding.
        progress: called with (stage, done, total).

    Returns:
        The study; ``.print()``, ``.save(path)``, ``.to_dict()``.

    Raises:
        whydiff.errors.UsageError: nothing to sweep, or sizes that the inputs do not have.
        whydiff.errors.TargetError: the target raised at the reference size.
        whydiff.errors.Interrupted: Ctrl-C; ``found`` is the study of the sizes that were run.
    """
    program = target if isinstance(target, Program) else Program(Given(target, inputs), uuid.uuid4().hex)
    axis, plan = planned(batch, length, layout, against)
    if resume is not None:
        check_file(os.fspath(resume))
    if row and not any(size.batch > row for size, _ in plan):
        raise UsageError("No batch has this row.", where="row", actual=str(row))
    adapter, environment = _environment(program, plan[0][1])
    jobs = [Job(program, size, base, row, environment.flags, kernels) for size, base in plan]
    stored = Stored(resume, _key(program, environment, row)) if resume is not None else None
    cells: list[Cell] = []
    try:
        with _pool(executor, workers, program) as pool:
            cells = _cells(jobs, stored, pool, progress)
            _must_run(cells)
            judged = _judged(jobs, cells, pool, progress)
            study = _study(axis, plan, cells, judged, environment)
            if orders and study.verdict is Verdict.ROUNDING:
                study = _ordered(study, jobs, pool, progress)
        if remedies and study.verdict is Verdict.ROUNDING:
            tried = try_remedies(adapter, jobs, study, progress)
            study = replace(study, remedies=tried, causes=name_causes(study, tried))
        return study
    except KeyboardInterrupt as stop:
        ran = stop.found if isinstance(stop, Interrupted) else cells
        raise Interrupted(_so_far(axis, plan, ran, environment)) from stop
    finally:
        forget()


def _must_run(cells: Sequence[Cell]) -> None:
    """Raise if the target ran at no size at all."""
    if all(cell.status == "failed" and cell.repeats is not False for cell in cells):
        raise TargetError(
            "The target runs at no size of the sweep.",
            where=str(cells[0].size),
            actual=cells[0].note,
            expected="a run that ends, with what inputs gives",
            next_step="call target(*inputs(batch)) alone, at one size",
        )


def _so_far(axis: Axis, plan: Sequence[tuple[Size, Size]], cells: Sequence[Cell], environment: Environment) -> Sweep:
    """What the sizes that were run say, before any of them was judged."""
    differing = sum(cell.status == "differs" for cell in cells)
    return Sweep(
        axis,
        str(getattr(plan[0][1], axis)),
        tuple(cells),
        classes(cells, axis),
        Verdict.INCONCLUSIVE,
        f"because it was interrupted after {len(cells)} of {len(plan)} cells; ops change their bits in {differing}",
        (),
        environment=environment,
    )


def planned(
    batch: Sizes | None, length: Sizes | None, layout: str | Sequence[str] | None, against: Axis | None
) -> tuple[Axis, list[tuple[Size, Size]]]:
    """The axis, and (size, reference size) of every cell, shorter and smaller ones first."""
    batches, lengths = sizes(batch) if batch is not None else (0,), sizes(length) if length is not None else (0,)
    names = [n.strip() for n in layout.split(",")] if isinstance(layout, str) else list(layout or ())
    layouts = list(dict.fromkeys(("contiguous", *names)))
    axis: Axis = against or ("batch" if len(batches) > 1 else "length" if len(lengths) > 1 else "layout")
    along = {"batch": batches, "length": lengths, "layout": layouts}[axis]
    if len(along) < 2:
        raise UsageError(
            "There is nothing to sweep.",
            actual=f"one {axis}",
            expected="two sizes at least",
            next_step="give batch='1,2,4', length='61..64' or layout='transposed'",
        )
    if layouts != ["contiguous"] and axis != "layout":
        raise UsageError(
            "Layouts are compared at one size each.",
            where="layout",
            actual=f"together with sizes of {axis}",
            next_step="sweep the layout apart, or say against='layout'",
        )
    plan = []
    for size in (Size(b, n, name) for n in lengths for b in batches for name in layouts):
        base = replace(size, **{axis: along[0]})  # type: ignore[arg-type]
        if size != base:
            plan.append((size, base))
    return axis, plan


def _environment(program: Program, base: Size) -> tuple[Any, Environment]:
    target, inputs = loaded(program)
    args, kwargs = arguments(inputs, base)
    rows = rows_of(inputs)
    if base.batch and rows and base.batch > rows:
        raise UsageError("The inputs have fewer rows.", actual=str(rows), expected=str(base.batch))
    adapter = for_target(target, (*args, *kwargs.values()))
    return adapter, adapter.environment()


def _key(program: Program, environment: Environment, row: int) -> dict[str, Any]:
    """What finished cells depend on: the program by name, where it runs, the switches."""
    named = "" if isinstance(program.load, Given) else program.token
    flags = {name: str(value) for name, value in environment.flags.items()}
    return {
        "program": named,
        "row": row,
        "versions": dict(environment.versions),
        "flags": flags,
        "hardware": dict(environment.hardware),
    }


class _Here:
    """Carries cells out in this process, one after another."""

    def run(self, function: Any, jobs: Sequence[Any]) -> Iterator[Any]:
        return (function(job) for job in jobs)

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *exception: Any) -> None:
        return None


class _There(_Here):
    """Sends cells to an executor; results come as they are ready."""

    def __init__(self, executor: Executor, own: bool) -> None:
        self.executor, self.own = executor, own

    def run(self, function: Any, jobs: Sequence[Any]) -> Iterator[Any]:
        waiting = [self.executor.submit(function, job) for job in jobs]
        try:
            for future in as_completed(waiting):
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()

    def __exit__(self, *exception: Any) -> None:
        if self.own:
            self.executor.shutdown(cancel_futures=True)


def _pool(executor: Executor | None, workers: int, program: Program) -> _Here:
    if executor is None and workers <= 1:
        return _Here()
    if executor is None:
        try:
            pickle.dumps(program)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UsageError(
                "This program cannot be sent to other processes.",
                actual=str(error),
                expected="objects that can be pickled",
                next_step="leave workers=1, or name a FILE.py:target",
            ) from error
        executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        return _There(executor, own=True)
    return _There(executor, own=False)


def _cells(jobs: Sequence[Job], stored: Stored | None, pool: _Here, progress: Progress | None) -> list[Cell]:
    known = stored.cells if stored is not None else {}
    done = {(job.size, job.against): known[job.size, job.against] for job in jobs if (job.size, job.against) in known}
    left = [job for job in jobs if (job.size, job.against) not in done]
    try:
        for cell in pool.run(run_cell, left):
            done[cell.size, cell.against] = cell
            if stored is not None:
                stored.add(cell)
            if progress is not None:
                progress("run every size", len(done), len(jobs))
    except KeyboardInterrupt as stop:
        raise Interrupted([done[key] for job in jobs if (key := (job.size, job.against)) in done]) from stop
    return [done[job.size, job.against] for job in jobs]


def _judged(
    jobs: Sequence[Job], cells: Sequence[Cell], pool: _Here, progress: Progress | None
) -> tuple[tuple[Judged, ...], Mapping[Size, Size]]:
    chosen, member = representatives(cells, MOST_JUDGED)
    wanted = {cell.size for cell in chosen}
    found = []
    for judged in pool.run(judge_cell, [job for job in jobs if job.size in wanted]):
        found.append(judged)
        if progress is not None:
            progress("judge the sizes that differ", len(found), len(chosen))
    return tuple(sorted(found, key=lambda one: one.size)), member


def _ordered(study: Sweep, jobs: Sequence[Job], pool: _Here, progress: Progress | None) -> Sweep:
    """The study with the accumulation trees of its classes."""
    wanted = asked(study.classes, study.cells, jobs, study.axis)
    revealed = {}
    for size, found in pool.run(reveal_orders, wanted):
        revealed[size] = found
        if progress is not None:
            progress("reveal the orders of sums", len(revealed), len(wanted))
    study = replace(study, classes=with_orders(study.classes, study.cells, study.axis, revealed))
    return replace(study, causes=name_causes(study, ()))


def _study(
    axis: Axis,
    plan: Sequence[tuple[Size, Size]],
    cells: Sequence[Cell],
    judged: tuple[tuple[Judged, ...], Mapping[Size, Size]],
    environment: Environment,
) -> Sweep:
    ones, member = judged
    notes = []
    failed = [cell for cell in cells if cell.status == "failed"]
    if failed:
        notes.append(f"{len(failed)} of {len(cells)} cells failed; the first, {failed[0].size}: {failed[0].note}")
    left = [cell for cell in cells if cell.status == "differs" and cell.size not in member]
    if left:
        notes.append(f"{len(left)} differing cells found other ops than the {len(ones)} that were judged")
    lost = [cell for cell in cells if cell.accounted is False]
    if lost:
        notes.append(f"in {len(lost)} cells the outputs differ although every place was corrected")
    verdict, reason = _verdict(cells, ones, bool(left), failed)
    study = Sweep(
        axis,
        str(getattr(plan[0][1], axis)),
        tuple(cells),
        classes(cells, axis),
        verdict,
        reason,
        ones,
        environment=environment,
        notes=tuple(notes),
    )
    return replace(study, causes=name_causes(study, ()))


def _verdict(
    cells: Sequence[Cell], judged: Sequence[Judged], left: bool, failed: Sequence[Cell]
) -> tuple[Verdict, str]:
    differing = [cell for cell in cells if cell.status == "differs"]
    if not differing:
        unsteady = next((cell for cell in failed if cell.repeats is False), None)
        if unsteady is not None:
            return Verdict.NONDETERMINISTIC, unsteady.note
        if failed:
            return Verdict.INCONCLUSIVE, f"{len(failed)} of {len(cells)} cells failed, none of the others differs"
        return Verdict.IDENTICAL, f"no op and no output changes a bit in {len(cells)} cells"
    other = next(((cell, one) for cell in differing for one in cell.found if one.kind == "input"), None)
    if other is not None:
        return Verdict.INCOMPARABLE, (
            f"the inputs at {other[0].size} do not hold those at {other[0].against} (read by {other[1].site}): the "
            "first rows and positions must be the same at every size"
        )
    worst = max(judged, key=lambda one: one.verdict.severity)
    outputs = sum(not cell.outputs_equal for cell in differing)
    count = f"ops change their bits in {len(differing)} of {len(cells)} cells, outputs in {outputs}"
    verdict = worst.verdict
    if verdict is Verdict.ROUNDING and left:
        verdict = Verdict.INCONCLUSIVE
    return verdict, f"{count}; judged at {worst.size}: {worst.reason}"
