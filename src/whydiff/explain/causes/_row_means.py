"""A mean of rows' means against one mean over all that counts, told by carrying both out on what both sides read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whydiff.explain.causes._values import Array
from whydiff.explain.causes._view import View
from whydiff.explain.sides import Side

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
