"""How a training run goes, step by step: losses, norms, absorbed updates, and how far two runs lie apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.steps import StepRecord
from whydiff.numbers.tolerance import TRAINING_JUMP
from whydiff.studies.training.parting import pairs

Steps = Sequence[StepRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One step of both runs.

    Attributes:
        step: of the reference.
        loss, other_loss: of the reference and the candidate; None: nothing was differentiated.
        gradient: norm of the reference's gradient, estimated from the sampled elements.
        update: norm of what the reference's update changes, likewise.
        absorbed: share of the sampled parameters with a gradient that the update leaves as they are.
        apart: distance of both runs' parameters over the norm of the reference's, likewise; 0 if all bits are equal.
        band: the same distance that rounding alone made; None: not measured.
    """

    step: int
    loss: float | None
    other_loss: float | None
    gradient: float
    update: float | None
    absorbed: float | None
    apart: float
    band: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """What rounding alone does to the reference.

    Attributes:
        runs: of the reference, with every operator's result rounded at random.
        leaves: the first step at which the candidate is farther away than they are; None: it stays inside.
        rate: how often a run that only rounds otherwise leaves it, at the most.
    """

    runs: int
    leaves: int | None
    rate: float


def curves(reference: Steps, candidate: Steps, ahead: int, jittered: Iterable[Steps] = ()) -> tuple[Point, ...]:
    """A `Point` per step that both runs take."""
    others = [list(run) for run in jittered]
    following = {step.number: step for step in reference}
    found = []
    for ours, theirs in pairs(reference, candidate, ahead):
        later = following.get(ours.number + 1)
        moved = later.sample - ours.sample if later is not None and later.sample.shape == ours.sample.shape else None
        asked = np.nan_to_num(ours.slopes) != 0
        near = [apart(ours, run[ours.number]) for run in others if ours.number < len(run)]
        found.append(
            Point(
                step=ours.number,
                loss=ours.loss,
                other_loss=theirs.loss,
                gradient=_norm(np.nan_to_num(ours.slopes), ours.share),
                update=None if moved is None else _norm(moved, ours.share),
                absorbed=None if moved is None or not asked.any() else float(np.mean(moved[asked] == 0)),
                apart=apart(ours, theirs),
                band=max(near) if near else None,
            )
        )
    return tuple(found)


def apart(ours: StepRecord, theirs: StepRecord) -> float:
    """How far two steps' parameters lie apart over the norm of the first's, from the sampled elements."""
    if ours.weights == theirs.weights:
        return 0.0
    if ours.sample.shape != theirs.sample.shape:
        return math.inf
    norm = _norm(ours.sample, ours.share)
    return _norm(theirs.sample - ours.sample, ours.share) / norm if norm else math.inf


def band(points: Sequence[Point], runs: int) -> Band | None:
    """Where the candidate leaves what rounding alone does; None: that was not measured.

    A further run of their kind lies outside the largest of n runs with probability 1 / (n + 1) at a step; sums in another
    order move numbers less than these runs do (measured: ``docs/explanation/scores.md``, "Training").
    """
    measured = [point for point in points if point.band is not None]
    if not measured or not runs:
        return None
    reached = 0.0
    for point in measured:
        reached = max(reached, point.band or 0.0)
        if point.apart > reached:
            return Band(runs=runs, leaves=point.step, rate=1 / (runs + 1))
    return Band(runs=runs, leaves=None, rate=1 / (runs + 1))


def jump(points: Sequence[Point], first: int) -> int | None:
    """The first step after another at which the runs lie `TRAINING_JUMP` times farther apart than ever before."""
    reached = 0.0
    for point in points:
        if point.step > first and reached and point.apart > TRAINING_JUMP * reached:
            return point.step
        reached = max(reached, point.apart)
    return None


def _norm(values: np.ndarray, share: float) -> float:
    return float(np.sqrt(share * np.sum(np.square(values.astype(np.float64)))))
