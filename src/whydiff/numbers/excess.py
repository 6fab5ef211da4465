"""How far one tensor lies from another: on average, and at its worst beyond a relative tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.numbers.metrics import measure
from whydiff.numbers.pieces import in_pieces
from whydiff.records import Payload

Array = np.ndarray[Any, Any]


def mean_and_excess(reference: Payload, candidate: Payload, rtol: float) -> tuple[float, float]:
    """Mean absolute difference over pairs of finite values, and the atol that would do beside a given rtol.

    Args:
        reference, candidate: floating, of one shape; complex numbers are pairs of reals.
        rtol: tolerated part of abs(reference).

    Returns:
        (mean of ``abs(c - r)``, largest finite ``abs(c - r) - rtol * abs(r)``, at least 0).
    """
    statistics = measure(reference, candidate)

    def excess(r: Array, c: Array) -> float:
        beyond = np.abs(c - r) - rtol * np.abs(r)
        return float(beyond.max(initial=0.0, where=np.isfinite(beyond)))

    worst = max(in_pieces(excess, reference, candidate), default=0.0)
    return statistics.sum_abs / max(statistics.finite, 1), worst


__all__ = ["mean_and_excess"]
