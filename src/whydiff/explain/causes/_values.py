"""Recorded values as float64, and how far two of them are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from whydiff.numbers.metrics import as_reals, filled, is_integer, values
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Event, Payload

Array = np.ndarray[Any, Any]


def number(payload: Payload) -> Array:
    """A payload as float64 (integers too; complex numbers as pairs of reals along a last axis)."""
    payload = as_reals(payload)
    return np.asarray(values(payload.bits, payload.dtype), dtype=np.float64)


def distance(ours: Array, theirs: Array) -> float:
    """Root mean square of the difference over that of the first, where both are finite; inf if they are not alike.

    What both are filled with (the huge number of a mask) has no part in it: nothing beside it would count.
    """
    if ours.shape != theirs.shape:
        return float("inf")
    known = np.isfinite(ours)
    if not known.any() or not np.array_equal(known, np.isfinite(theirs)):
        return float("inf")
    fill = filled(ours, theirs)
    if fill.any() or not known.all():
        known &= ~fill
        ours, theirs = ours[known], theirs[known]
    size, apart = (math.sqrt(np.square(one).sum(dtype=np.float64) / one.size) for one in (ours, theirs - ours))
    return apart / size if size else (0.0 if apart == 0 else float("inf"))


def narrow(event: Event, than: str) -> bool:
    """Whether a floating value is stored with fewer bits than a dtype has."""
    units = UNIT_ROUNDOFF.get(event.spec.dtype), UNIT_ROUNDOFF.get(than)
    return units[0] is not None and units[1] is not None and units[0] > units[1]


def floating(payloads: Sequence[Payload]) -> bool:
    """Whether all of them hold real floating-point numbers."""
    return all(not is_integer(p.dtype) and not p.dtype.startswith("complex") for p in payloads)


def one_number(one: float, other: float) -> bool:
    """Whether two losses are one number but for a few roundings in float32."""
    return math.isclose(one, other, rel_tol=16 * UNIT_ROUNDOFF["float32"])
