"""Share of the elements without NaN of which at least one is infinite and which are not equal."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("inf_mismatch", "elements", lambda s: ratio(s.inf_mismatch, s.elements))
