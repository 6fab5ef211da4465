"""Share of the elements over the tolerance that `measure` was given.

abs(candidate - reference) > atol + rtol * abs(reference), or unequal and not both finite.
"""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric("mismatched", "elements", lambda s: ratio(s.mismatched, s.elements))
