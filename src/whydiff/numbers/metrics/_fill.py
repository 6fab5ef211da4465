"""What both sides fill with one huge number (a mask's): beside it nothing else would have any weight in a sum of squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import _dtypes
from whydiff.numbers.metrics._one_pass import Statistics, measure
from whydiff.records import Payload

Array = np.ndarray[Any, Any]

UNIT = float(np.finfo(np.float32).eps) / 2
"""Unit roundoff of float32, the precision that masks are made for."""

BETWEEN = 1e-3, 0.9
"""Shares of the largest number between which there is nothing where it is a fill (`filled`), with some room."""
_PIECE = 1 << 18


def measure_beside_fill(reference: Payload, candidate: Payload, rtol: float = 0.0, atol: float = 0.0) -> Statistics:
    """As `measure`; what both sides are filled with has no part in the squares of the reference and of the candidate."""
    found = measure(reference, candidate, rtol, atol)
    if not may_be_filled(found) or _between(reference):
        return found
    ours, theirs = (_dtypes.values(one.bits, one.dtype) for one in (reference, candidate))
    if not (fill := filled(ours, theirs)).any():
        return found
    x, y = (one[~fill & np.isfinite(ours) & np.isfinite(theirs)].astype(np.float64) for one in (ours, theirs))
    return replace(
        found,
        sum_reference_square=float((x * x).sum()),
        sum_candidate_square=float((y * y).sum()),
        sum_product=float((x * y).sum()),
    )


def may_be_filled(found: Statistics) -> bool:
    """Whether what differs is so little beside the whole that a fill can hide it."""
    return 0 < found.sum_square < UNIT * found.sum_reference_square and not found.dtype.startswith("complex")


def _between(payload: Payload) -> bool:
    """Whether some of its numbers are neither the largest nor nothing beside it (`BETWEEN`): it is not filled then."""
    line = payload.bits.reshape(-1)

    def sizes(start: int) -> Array:
        part = np.abs(_dtypes.values(line[start : start + _PIECE], payload.dtype))
        return np.where(np.isfinite(part), part, 0)

    starts = range(0, line.size, _PIECE)
    largest = max(spread(lambda start: float(sizes(start).max()), [(start,) for start in starts]), default=0.0)
    low, high = (share * largest for share in BETWEEN)
    return any(bool(((part > low) & (part < high)).any()) for part in map(sizes, starts))


def filled(ours: Array, theirs: Array) -> Array:
    """Where both hold one number, the largest of each, if half of float32's digits of all else are lost beside it.

    Up to the last digit of float32: a mask may be added to what it hides. What stands there once may be a result: it is
    a fill if all digits are lost beside it. What is not finite is none.

    Args:
        ours: floating numbers of any shape.
        theirs: the same shape.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        size = np.where(np.isfinite(ours), np.abs(ours), 0.0)
        largest = ours.reshape(-1)[int(np.argmax(size))] if ours.size else 0.0
        both: Array = np.abs(ours - largest) <= UNIT * abs(largest)
        both &= np.abs(theirs - largest) <= UNIT * abs(largest)
        if not both.any():
            return both
        other = np.where(np.isfinite(theirs), np.abs(theirs), 0.0)
    lost = np.sqrt(UNIT) if np.count_nonzero(both) > 1 else UNIT
    rest = max(float(one.max(initial=0.0, where=~both)) for one in (size, other))
    return both if 0 < rest < lost * abs(largest) else np.zeros_like(both)
