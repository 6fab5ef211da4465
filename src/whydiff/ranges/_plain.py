"""The scan in plain numpy, where numba is missing; same results."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


def scan(address: int, first: int, n: int, width: int, fraction: int, top: int, histogram: Any, extremes: Any) -> None:
    """See `whydiff.ranges._kernel.scan`."""
    if n <= 0:
        return
    raw = (ctypes.c_uint8 * (n * width)).from_address(address + first * width)
    mask = np.uint64((1 << (8 * width - 1)) - 1)
    bits = np.frombuffer(memoryview(raw).cast("B"), np.dtype(f"u{width}")).astype(np.uint64) & mask
    histogram[0] += np.bincount((bits >> np.uint64(fraction)).astype(np.int64), minlength=histogram.shape[1])
    finite, present = bits[bits < np.uint64(top)], bits[bits > 0]
    if finite.size:
        extremes[0] = max(extremes[0], finite.max())
    if present.size:
        extremes[1] = min(extremes[1], present.min())
    extremes[2] += np.uint64((bits == 0).sum())
    extremes[3] += np.uint64((bits > np.uint64(top)).sum())
    extremes[4] += np.uint64((bits >= np.uint64(top)).sum())
