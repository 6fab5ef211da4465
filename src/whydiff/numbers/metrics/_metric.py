"""What a metric is: a name, a denominator and a formula over the statistics of one pass."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

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
        return float(self.formula(statistics))


def demands(part: Any, name: str) -> Iterator[str]:
    """What a registered metric lacks."""
    if part.name != name:
        yield f"its name is {part.name!r}, and it is registered as {name!r}"
    if not isinstance(part.per, str):
        yield f"per is {part.per!r}, not a string"
    if not callable(part.formula):
        yield f"formula is {part.formula!r}, which cannot be called"
        return
    try:
        inspect.signature(part.formula).bind(None)
    except TypeError:
        yield f"formula{inspect.signature(part.formula)} cannot be called with the statistics alone"


def ratio(numerator: float, denominator: float) -> float:
    """``numerator / denominator`` of non-negative numbers, where 0 / 0 is 0 and x / 0 is inf."""
    if denominator:
        return numerator / denominator
    return math.inf if numerator else 0.0
