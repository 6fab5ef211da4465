"""Share of the elements whose signs are opposite; zeros have no sign."""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("sign_flips", "elements", lambda s: ratio(s.sign_flips, s.elements))
