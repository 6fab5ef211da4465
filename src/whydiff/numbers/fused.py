"""A fused multiply-add: the product is not rounded before something is added to it.

Source: IEEE 754-2019, section 5.4.1 (fusedMultiplyAdd); Boldo and Melquiond, "Emulation of FMA and correctly rounded
sums: proved algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.numbers.formats import FORMATS, round_to

Array = np.ndarray[Any, Any]
FUSABLE = ("float32", "float16")
"""Dtypes of numpy whose products float64 holds exactly."""


def fused_multiply_add(left: Array, right: Array, added: Array, dtype: str) -> Array:
    """``left * right + added``, rounded once to a dtype.

    Args:
        left, right, added: values of that dtype (one of `FUSABLE`) as float64; they are broadcast.
        dtype: name.

    Returns:
        The values as float64.
    """
    assert FORMATS[dtype].precision * 2 <= FORMATS["float64"].precision
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.multiply(left, right)
        total = np.add(product, added)
        part = total - product
        left_over = (product - (total - part)) + (added - part)  # what float64 lost (Knuth's two-sum)
    bits = total.view(np.int64) if total.ndim else total.reshape(1).view(np.int64).reshape(())
    odd = (bits & 1) == 1
    away = (left_over > 0) == (total > 0)
    moved = np.where(away, bits + 1, bits - 1)  # rounded to odd, so that rounding again is exact
    inexact = np.isfinite(left_over) & (left_over != 0) & np.isfinite(total) & ~odd
    return round_to(np.where(inexact, moved, bits).view(np.float64), dtype)
