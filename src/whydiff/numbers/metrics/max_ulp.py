"""Largest distance in units in the last place of the compared dtype; huge for values near zero.

Read it together with `Statistics.ulp_at_least`.
"""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric

REGISTER = Metric("max_ulp", "", lambda s: float(s.max_ulp))
