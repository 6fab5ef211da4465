"""Largest abs(candidate - reference) over pairs of finite values."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric

REGISTER = Metric("max_abs", "", lambda s: s.max_abs)
