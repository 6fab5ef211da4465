"""Largest abs(candidate - reference) / abs(reference) where the reference is finite and not 0.

Pairs with reference 0 and another candidate are counted in `Statistics.over_zero`.
"""

from __future__ import annotations

from whydiff.numbers.metrics._metric import Metric

REGISTER = Metric("max_rel", "abs(reference)", lambda s: s.max_rel)
