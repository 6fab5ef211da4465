"""Metrics: one pass collects every statistic (`measure`), then one small file per metric reads them.

No metric sees a threshold: tolerances are arguments, and `whydiff.numbers.tolerance` is where they come from.
"""

from whydiff.numbers.metrics._dtypes import (
    as_reals,
    bits_dtype,
    common_dtype,
    is_choice,
    is_integer,
    known_dtypes,
    real_part_dtype,
    values,
)
from whydiff.numbers.metrics._fill import BETWEEN, filled, may_be_filled, measure_beside_fill
from whydiff.numbers.metrics._metric import Metric, demands
from whydiff.numbers.metrics._one_pass import SMALL, Statistics, implementation, measure, measure_shares, merged
from whydiff.registry import Contract

CONTRACT = Contract(base=Metric, demands=demands)

__all__ = [
    "BETWEEN",
    "SMALL",
    "Metric",
    "Statistics",
    "as_reals",
    "bits_dtype",
    "common_dtype",
    "filled",
    "implementation",
    "is_choice",
    "is_integer",
    "known_dtypes",
    "may_be_filled",
    "measure",
    "measure_beside_fill",
    "measure_shares",
    "merged",
    "real_part_dtype",
    "values",
]
