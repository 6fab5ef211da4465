"""Euclidean norm of the difference over that of the reference, over pairs of finite values.

The reference's norm is taken without what both sides are filled with, a mask's huge number.
0 / 0 is 0 and x / 0 is inf.
"""

from __future__ import annotations

import math

from whydiff.numbers.metrics._metric import Metric, ratio

REGISTER = Metric(
    "rel_l2", "abs(reference)", lambda s: ratio(math.sqrt(s.sum_square), math.sqrt(s.sum_reference_square))
)
