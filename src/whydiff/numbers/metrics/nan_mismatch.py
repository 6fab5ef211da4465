"""Share of the elements that are NaN on exactly one side."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("nan_mismatch", "elements", lambda s: ratio(s.nan_mismatch, s.elements))
