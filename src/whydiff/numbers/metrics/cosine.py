"""Cosine of the angle between reference and candidate, over pairs of finite values.

1 if both are zero, 0 if one of them is. Rounding hides angles below about 1e-8 (1 - cosine < 1e-16).
"""

from __future__ import annotations

import math

from whydiff.numbers.metrics._metric import Metric
from whydiff.numbers.metrics._one_pass import Statistics


def cosine(s: Statistics) -> float:
    """The formula of this file."""
    norms = math.sqrt(s.sum_reference_square) * math.sqrt(s.sum_candidate_square)
    if norms:
        return max(-1.0, min(1.0, s.sum_product / norms))
    return 1.0 if s.sum_reference_square == s.sum_candidate_square else 0.0


REGISTER = Metric("cosine", "", cosine)
