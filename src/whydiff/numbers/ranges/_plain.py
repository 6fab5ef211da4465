"""The scan in plain numpy, where numba is missing; same results."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np


def scan(
    address: int, first: int, last: int, width: int, fraction: int, bias: int, top: int, row: Any
) -> tuple[float, int, int]:
    """See `whydiff.numbers.ranges._kernel.scan`."""
    n = last - first
    if n <= 0:
        return 0.0, 0, 0
    raw = (ctypes.c_uint8 * (n * width)).from_address(address + first * width)
    mask = np.uint64((1 << (8 * width - 1)) - 1)
    bits = np.frombuffer(memoryview(raw).cast("B"), np.dtype(f"u{width}")).astype(np.uint64) & mask
    finite, present = bits[bits < np.uint64(top)], bits[bits > 0]
    largest = int(finite.max()) if finite.size else 0
    zeros, special = int((bits == 0).sum()), int((bits >= np.uint64(top)).sum())
    row[:4] += np.array([n, zeros, special, (bits > np.uint64(top)).sum()], np.uint64)
    row[4] = max(int(row[4]), largest)
    if present.size:
        row[5] = min(int(row[5]), int(present.min()) - 1)
    row[6:] += np.bincount((bits >> np.uint64(fraction)).astype(np.int64), minlength=row.size - 6).astype(np.uint64)
    exponent, mantissa = largest >> fraction, largest & ((1 << fraction) - 1)
    if exponent:
        mantissa += 1 << fraction
    return math.ldexp(mantissa, max(exponent, 1) - bias - fraction), special, zeros
