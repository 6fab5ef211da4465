"""What a metric is: a name, a denominator and a formula over the statistics of one pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from whydiff.numbers.metrics._one_pass import Statistics


@dataclass(frozen=True, slots=True)
class Metric:
    """One file of this folder registers one of these.

    Attributes:
        name: the file's name.
        per: what the number is divided by: ``"abs(reference)"``, ``"elements"`` or ``""``.
        formula: statistics → number.
    """

    name: str
    per: str
    formula: Callable[[Statistics], float]

    def __call__(self, statistics: Statistics) -> float:
        """The number of this metric."""
        return self.formula(statistics)


def ratio(numerator: float, denominator: float) -> float:
    """``numerator / denominator`` of non-negative numbers, where 0 / 0 is 0 and x / 0 is inf."""
    if denominator:
        return numerator / denominator
    return math.inf if numerator else 0.0
