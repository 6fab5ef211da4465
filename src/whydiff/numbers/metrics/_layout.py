"""Where each statistic lies in the arrays that both implementations of the one-pass comparison return."""

from __future__ import annotations

SUMS = (
    "sum_abs",
    "sum_difference",
    "sum_square",
    "sum_reference_square",
    "sum_candidate_square",
    "sum_product",
    "max_abs",
    "max_rel",
)
"""float64 entries: six sums and two maxima."""

COUNTS = (
    "elements",
    "finite",
    "different",
    "mismatched",
    "sign_flips",
    "over_zero",
    "inf_mismatch",
    "nan_reference",
    "nan_candidate",
    "nan_both",
    "first_mismatch",
    "argmax",
)
"""int64 entries: ten counts and two indices (-1: none)."""

POWERS = 32
"""Entries of the ULP histogram: elements whose ULP distance is at least 4**k, k = 0 .. 31."""

KINDS = ("float32", "float64", "bfloat16", "table16", "table8", "int64", "uint64")
"""How the compiled kernel loads an element; the tables hold a float32 value per code."""
