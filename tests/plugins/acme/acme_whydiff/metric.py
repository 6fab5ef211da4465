"""Mean of the squared differences, over pairs of finite values."""

from __future__ import annotations

from whydiff.numbers.metrics import Metric, Statistics


def mean_square(s: Statistics) -> float:
    """The formula of this file."""
    return s.sum_square / s.finite if s.finite else 0.0


REGISTER = Metric("mean_square", "elements", mean_square)
