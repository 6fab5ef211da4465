"""Mean of abs(candidate - reference) over pairs of finite values."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("mean_abs", "elements", lambda s: ratio(s.sum_abs, s.finite))
