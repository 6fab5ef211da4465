"""Large tensors on the host looked at piece by piece, on several cores: nothing as large as they are is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import as_reals, measure, values
from whydiff.records import Payload

Array = np.ndarray[Any, Any]
Result = TypeVar("Result")

PIECE = 1 << 20
"""Real numbers that are looked at together."""


def in_pieces(of: Callable[..., Result], *payloads: Payload) -> list[Result]:
    """What a function makes of payloads' real values, in pieces of `PIECE` in float64, on several cores.

    Args:
        of: is given one piece of each payload, float64 ``[n]``, none of which it may change; called on several threads.
        payloads: of one shape.

    Returns:
        One result per piece, in the order of the elements; none for empty payloads.
    """
    reals = [as_reals(payload) for payload in payloads]
    lines = [payload.bits.reshape(-1) for payload in reals]

    def one(start: int) -> Result:
        with np.errstate(invalid="ignore", over="ignore"):
            return of(
                *(
                    values(line[start : start + PIECE], payload.dtype).astype(np.float64, copy=False)
                    for line, payload in zip(lines, reals, strict=True)
                )
            )

    return spread(one, [(start,) for start in range(0, lines[0].size, PIECE)])


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays of one shape and dtype hold the same bytes, element by element."""
    ours, theirs = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (one, other))
    step = PIECE * 4

    def equal(start: int) -> bool:
        return bool(np.array_equal(ours[start : start + step], theirs[start : start + step]))

    return all(spread(equal, [(start,) for start in range(0, ours.size, step)]))


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


__all__ = ["PIECE", "in_pieces", "mean_and_excess", "same_bits"]
