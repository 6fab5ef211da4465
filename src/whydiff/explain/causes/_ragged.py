"""A mean of means over unequal parts, where the other side takes one mean.

Told by the arithmetic of both runs' losses, or by carrying both means out on what both sides read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Executor
from whydiff.explain.case import Case
from whydiff.explain.causes._values import Array, number, one_number
from whydiff.explain.causes._view import View
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.metrics import is_integer
from whydiff.pair.replay import replay
from whydiff.records import Call


@dataclass(frozen=True, slots=True)
class Ragged:
    """One side takes the mean of its parts' means, the other one mean over all.

    Attributes:
        side: the one that takes the mean of means.
        site: of its first part.
        counts: how many labels each of its parts counts.
        mean, of_means: the two numbers, as they were returned.
    """

    side: Side
    site: str
    counts: tuple[int, ...]
    mean: float
    of_means: float


def ragged(case: Case) -> Ragged | None:
    """Which side takes a mean of means over parts that count unequally many labels; None: neither, or it cannot be told.

    Both sides' losses, weighted by their counts, must be one number over one count, and of a single number that both
    return one must be that and the other the plain mean of the parts' means, to float32 rounding.
    """
    returned = [(number(a), number(b)) for _, a, b in case.localization.returned if a.bits.size == b.bits.size == 1]
    if not returned or not case.replayable:
        return None
    if not any(_is_mean(call) for call in case.candidate.calls):
        return None
    parts = [_parts(case, side) for side in SIDES]
    if not all(parts):
        return None
    totals = [sum(count for _, count in found) for found in parts]
    means = [sum(mean * count for mean, count in found) / total for found, total in zip(parts, totals, strict=True)]
    if totals[0] != totals[1] or not one_number(*means):
        return None
    for at, side in enumerate(SIDES):
        of_means = sum(mean for mean, _ in parts[at]) / len(parts[at])
        given = [(float(pair[1 - at].reshape(-1)[0]), float(pair[at].reshape(-1)[0])) for pair in returned]
        if one_number(of_means, means[at]) or not any(
            one_number(a, means[1 - at]) and one_number(b, of_means) for a, b in given
        ):
            continue
        trace = case.traces[at]
        first = next(call for call in trace.calls if _is_mean(call))
        counts = tuple(round(count) for _, count in parts[at])
        return Ragged(side=side, site=str(first.site), counts=counts, mean=means[1 - at], of_means=of_means)
    return None


def _is_mean(call: Call) -> bool:
    """Whether a call reads labels and writes two single numbers: a mean, and over how many."""
    labels = any(is_integer(event.spec.dtype) and event.spec.numel > 1 for event in call.reads)
    return call.kind == "compute" and labels and [event.spec.shape for event in call.writes] == [(), ()]


def _parts(case: Case, side: Side) -> list[tuple[float, float]]:
    """(mean, count) of every part, in order; empty where one counts nothing."""
    found: list[tuple[float, float]] = []

    def look(executor: Executor, call: Call) -> None:
        if _is_mean(call):
            mean, count = (float(number(executor.payload(executor.read(event)))) for event in call.writes)
            found.append((mean, count))

    replay(case.experiments.executor(side), watch=look)
    whole = all(count >= 1 and count == round(count) and math.isfinite(mean) for mean, count in found)
    return found if whole else []


_WITHIN = 1e-9
"""Of float64 numbers that are one: sixteen digits, of which a sum that cancels loses some."""


@dataclass(frozen=True, slots=True)
class RowMeans:
    """One side takes the mean of rows' means, the other one mean.

    Attributes:
        side: which takes the mean of means.
        counts: of every row, what it is divided by.
    """

    side: Side
    counts: tuple[float, ...]


def rows_means(view: View) -> RowMeans | None:
    """Two numbers that are both means of what both sides read here, over all and by rows of unequal whole counts."""
    ours, theirs = view.exact
    if ours.size != 1 or theirs.size != 1 or view.one_function:
        return None
    given = float(ours.reshape(-1)[0]), float(theirs.reshape(-1)[0])
    for values, weights in _pairs(view):
        for axis in range(values.ndim):
            summed = values.sum(axis).reshape(-1)
            counts = weights.sum(axis).reshape(-1)
            counted = np.all(counts == np.round(counts)) and counts.all()
            if summed.size < 2 or not counted or np.all(counts == counts[0]):
                continue
            means = float(summed.sum() / counts.sum()), float(np.mean(summed / counts))
            if all(math.isclose(a, b, rel_tol=_WITHIN) for a, b in zip(given, means, strict=True)):
                return RowMeans("candidate", tuple(counts.tolist()))
            if all(math.isclose(a, b, rel_tol=_WITHIN) for a, b in zip(given, means[::-1], strict=True)):
                return RowMeans("reference", tuple(counts.tolist()))
    return None


def _pairs(view: View) -> Iterator[tuple[Array, Array]]:
    """What may be summed and what may count it: two reads of one shape, the first as it is or weighted by the other."""
    for operation in view.seen.operations:
        reads = [np.asarray(read, np.float64) for read in operation.reads if read.ndim > 1]
        for values, weights in itertools.permutations(reads, 2):
            if values.shape == weights.shape:
                yield values, weights
                yield values * weights, weights
