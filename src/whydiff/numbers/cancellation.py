"""Whether one of two formulas that agree in exact arithmetic loses digits that the other keeps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whydiff.numbers.tolerance import CANCELLED_SAMPLE, CANCELLED_SHARE, PRECISION_CLASS_RATIO


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A formula that loses digits which another one of the same function keeps.

    Attributes:
        worse: 0 or 1, the side.
        lost, other: bits lost by that side and by the other one, of ``digits`` significant ones.
        digits: of that side.
    """

    worse: int
    lost: float
    other: float
    digits: float


def cancelled(errors: tuple[float, float], units: tuple[float, float], results: int) -> Cancelled | None:
    """Whether one of two formulas that agree in exact arithmetic cancels.

    Errors count against the results themselves. A formula is unstable if it loses more than `CANCELLED_SHARE` of its
    digits where the other does not; where both do, the inputs are ill conditioned.

    Args:
        errors: root mean square (or mean absolute) error of each side over the exact results' root mean square.
        units: unit roundoff that each side computes in.
        results: how many results the errors are taken over.
    """
    if results < CANCELLED_SAMPLE:
        return None
    digits = [-math.log2(unit) for unit in units]
    lost = [max(0.0, bits + math.log2(max(error, 2.0**-60))) for bits, error in zip(digits, errors, strict=True)]
    worse = 0 if errors[0] > errors[1] else 1
    better = 1 - worse
    unequal = errors[worse] > PRECISION_CLASS_RATIO * errors[better]
    if not unequal or lost[worse] <= CANCELLED_SHARE * digits[worse] or lost[better] > CANCELLED_SHARE * digits[better]:
        return None
    return Cancelled(worse=worse, lost=lost[worse], other=lost[better], digits=digits[worse])
