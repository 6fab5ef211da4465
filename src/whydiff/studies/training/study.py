"""Two training runs: a cheap pass over all steps, and the first step that parts in full."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters import Progress, Recorded, for_target
from whydiff.capturing.process import as_found
from whydiff.capturing.steps import StepLog, StepRecord, StepWriter
from whydiff.errors import UnsupportedError, UsageError
from whydiff.pipeline import Options, compare
from whydiff.records import Diagnosis, Verdict
from whydiff.report.words import listed
from whydiff.studies.training.curves import Point, band, curves, jump
from whydiff.studies.training.parting import (
    Parting,
    Steps,
    idle_gradients,
    offset,
    pairs,
    parting,
    parts,
    set_otherwise,
    settings,
)
from whydiff.studies.training.programs import Program, side
from whydiff.studies.training.report import TrainingReport
from whydiff.takes import instance, takes

_REACH = 6
"""Steps that are explained together, from equal states on, where rounding comes first and a jump later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How two training runs are compared.

    Attributes:
        from_step: the reference's step that the candidate's first one corresponds to; None: found from what both
            begin with.
        band: how many runs of the reference are made with every result rounded at random; 0: none.
        diagnose: look at the first step that parts in full.
        log: folder in which both runs' logs are kept; None: nowhere.
        progress: called with (stage, done, total).
    """

    from_step: int | None = None
    band: int = 0
    diagnose: bool = True
    log: str | None = None
    progress: Progress | None = None


@takes(options=instance(TrainingOptions))
def compare_training(reference: Any, candidate: Any, options: TrainingOptions | None = None) -> TrainingReport:
    """Say at which step two training runs part, why, and whether rounding alone would have parted them too.

    Args:
        reference: the trusted run: a function without arguments that trains, ``"SCRIPT.py ARGS"``, ``"FILE.py:name"``,
            or the folder of a log.
        candidate: the run under suspicion, likewise; it may begin at a later step (a resumed run).
        options: see `TrainingOptions`.

    Returns:
        A `TrainingReport`.

    Raises:
        whydiff.errors.TargetError: a program raised.
        whydiff.errors.UnsupportedError: a program takes no step that can be followed.
        whydiff.errors.UsageError: ``from_step`` is none of the reference's steps.
    """
    options = options or TrainingOptions()
    sides = side(reference), side(candidate)
    programs = [one for one in sides if not isinstance(one, StepLog)]
    with _adapter(programs[0]).settled() if programs else nullcontext():
        return _compared(sides, options)


def _compared(sides: tuple[Program | StepLog, Program | StepLog], options: TrainingOptions) -> TrainingReport:
    logs = [_log(one, options, name) for one, name in zip(sides, ("reference", "candidate"), strict=True)]
    ours, theirs = (log.steps for log in logs)
    ahead = _ahead(ours, theirs, options)
    apart = parting(ours, theirs, ahead)
    diagnosis = None
    why_not = ""
    if apart is not None and options.diagnose:
        later = set_otherwise(ours, theirs, ahead, apart.first)
        points = curves(ours, theirs, ahead)
        taken = {one.number for one, other in pairs(ours, theirs, ahead) if one.losses and other.losses}
        diagnosis, why_not = _diagnosed(sides, apart, ahead, later=later, points=points, taken=taken, options=options)
    rounded: list[Steps] = []
    if options.band and not isinstance(sides[0], StepLog):
        rounded = [_jittered(sides[0], seed, options) for seed in range(options.band)]
    points = curves(ours, theirs, ahead, rounded)
    return TrainingReport(
        verdict=_agreed(logs, ahead, points) if apart is None else _verdict(diagnosis),
        steps=(_taken(ours), _taken(theirs)),
        ahead=ahead,
        parting=apart,
        begins=parts(*next(iter(pairs(ours, theirs, ahead)))) if ahead else (),
        points=points,
        band=band(points, options.band if rounded else 0),
        diagnosis=diagnosis,
        notes=(*_idle(idle_gradients(ours, theirs, ahead, apart)), *_notes(logs, why_not)),
        settings=settings(ours, theirs, ahead),
    )


def _log(one: Program | StepLog, options: TrainingOptions, name: str) -> StepLog:
    if isinstance(one, StepLog):
        return one
    steps: list[StepRecord] = []
    writer = StepWriter(Path(options.log) / name) if options.log else None

    def sink(step: StepRecord) -> None:
        steps.append(step)
        if writer is not None:
            writer.add(step)
        if options.progress is not None:
            options.progress(f"follow the {name}", len(steps), 0)

    complete = False
    try:
        run_watched(one, sink)
        complete = True
    finally:
        if writer is not None:
            writer.close(complete=complete)
    if not any(step.losses for step in steps):
        raise UnsupportedError(
            "The program takes no training step that can be followed.",
            where=f"the {name}",
            actual="no backward() of torch ran",
            expected="a loop in PyTorch with backward() and an update",
            next_step="two loops in JAX: whydiff compare FILE.py:reference FILE.py:candidate, functions that run the whole "
            "loop; under jit or scan it is one program there",
        )
    return StepLog(tuple(steps), complete, name)


def run_watched(program: Program, sink: Any) -> None:
    """Run a program under the cheap pass; the process is put back as it was."""
    adapter = _adapter(program)
    with as_found(), adapter.watching(sink):
        adapter.run(program, (), {}).plain()


def _adapter(program: Program) -> Recorded:
    return for_target(program, ())


def _jittered(program: Program, seed: int, options: TrainingOptions) -> Steps:
    steps: list[StepRecord] = []
    if options.progress is not None:
        options.progress("round at random", seed, options.band)
    with as_found():
        _adapter(program).jittered(program, seed, steps.append)
    return steps


def _ahead(ours: Steps, theirs: Steps, options: TrainingOptions) -> int:
    if options.from_step is None:
        return offset(ours, theirs)
    if not 0 <= options.from_step < len(ours):
        raise UsageError(
            "The reference takes no such step.",
            actual=str(options.from_step),
            expected=f"0 to {len(ours) - 1}",
            where="from_step",
        )
    return options.from_step


def _diagnosed(
    sides: tuple[Program | StepLog, Program | StepLog],
    apart: Parting,
    ahead: int,
    *,
    later: int | None,
    points: Sequence[Point],
    taken: Container[int],
    options: TrainingOptions,
) -> tuple[Diagnosis | None, str]:
    if any(isinstance(one, StepLog) for one in sides):
        return None, "a log holds no step in full: name the programs to have the step explained"
    first = apart.first
    if first not in taken:
        return None, f"no step is taken at {first}: what differs was changed before the first one, or after the last"
    last = later if later is not None and later - first <= _REACH else first  # two losses, of which one acts later
    found = _explained(sides, (first, last), ahead, options)
    if found.verdict is Verdict.IDENTICAL and first < apart.step:  # the update agrees: replaced in between
        first = apart.step
        if first not in taken:
            return found, f"the update of step {apart.first}, the last one, agrees: parameters are changed after it"
        found = _explained(sides, (first, first), ahead, options)
    elif found.verdict is Verdict.IDENTICAL:  # gradients that act later
        acts = next((point.step for point in points if point.step > last + 1 and point.apart), None)
        if acts is not None and acts - first <= _REACH:
            found = _explained(sides, (first, acts - 1), ahead, options)
    if found.verdict in (Verdict.ROUNDING, Verdict.PRECISION):
        far = jump(points, first)
        if far is not None and far - first <= _REACH:
            found = _explained(sides, (first, far - 1), ahead, options)
        elif far is not None:
            why = f"at step {far} the distance jumps, and only the first step that parts was explained"
            return found, why
    return found, ""


def _explained(sides: tuple[Any, Any], steps: tuple[int, int], ahead: int, options: TrainingOptions) -> Diagnosis:
    runs = [
        _adapter(one).step_run(one, *(step - shift for step in steps))
        for one, shift in zip(sides, (0, ahead), strict=True)
    ]
    return compare(*runs, options=Options(progress=options.progress))


def _verdict(diagnosis: Diagnosis | None) -> Verdict:
    if diagnosis is None or diagnosis.verdict is Verdict.IDENTICAL:
        return Verdict.INCONCLUSIVE
    return diagnosis.verdict


def _agreed(logs: Sequence[StepLog], ahead: int, points: Iterable[Point]) -> Verdict:
    """The verdict on steps none of which differs: agreement only if there were some, and both runs end with the last."""
    ends = [_taken(log.steps) for log in logs]
    whole = all(log.complete for log in logs) and any(point.loss is not None for point in points)
    return Verdict.IDENTICAL if whole and ends[0] - ahead == ends[1] else Verdict.INCONCLUSIVE


def _taken(steps: Steps) -> int:
    return sum(bool(step.losses) for step in steps)


def _idle(found: tuple[int, tuple[str, ...]] | None) -> Iterable[str]:
    if found is not None:
        step, names = found
        yield f"gradients of {listed(names, 6)} differ from step {step} on and change no parameter and no loss"


def _notes(logs: Iterable[StepLog], why_not: str) -> Iterable[str]:
    if why_not:
        yield f"not explained: {why_not}"
    for log in logs:
        if not log.complete:
            yield f"the log of the {log.source} ends early: it is compared as far as it goes"
        if log.steps and not all(log.steps[0].trained):
            left = [n for n, t in zip(log.steps[0].names, log.steps[0].trained, strict=True) if not t]
            yield f"{log.source}: no optimizer updates {', '.join(left[:6])}{' …' if len(left) > 6 else ''}"
