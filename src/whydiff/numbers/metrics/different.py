"""Share of the elements whose bits differ."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("different", "elements", lambda s: ratio(s.different, s.elements))
