"""Range of a tensor in one pass: extremes, zeros, subnormals, inf, NaN and the histogram of exponents.

Nothing of the tensor is kept. The histogram over the exponent (a few dozen counts) answers every later question
about headroom in the tensor's own format and in narrower ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.fingerprint.threads import spread
from whydiff.ranges.limits import LIMITS, Limits, limits, narrower

__all__ = ["LIMITS", "Limits", "Range", "limits", "measure_address", "measure_array", "narrower"]

_PART = 1 << 18  # elements that one thread scans at a time


@dataclass(frozen=True, slots=True)
class Range:
    """Range statistics of one tensor, or of several merged ones.

    Attributes:
        dtype: format of the elements.
        elements, zeros, subnormals, infs, nans: counts.
        max_abs: largest finite magnitude (0 if there is none).
        min_abs: smallest non-zero finite magnitude (inf if there is none).
        exponents: power of two → count of finite non-zero elements with ``2**e <= abs(x) < 2**(e + 1)``;
            subnormals of the format are counted under ``smallest_normal``'s exponent minus one.
    """

    dtype: str
    elements: int
    zeros: int
    subnormals: int
    infs: int
    nans: int
    max_abs: float
    min_abs: float
    exponents: Mapping[int, int] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """No inf and no NaN."""
        return not (self.infs or self.nans)

    def merged(self, other: Range) -> Range:
        """Statistics of both together."""
        exponents = dict(self.exponents)
        for exponent, count in other.exponents.items():
            exponents[exponent] = exponents.get(exponent, 0) + count
        return Range(
            self.dtype, self.elements + other.elements, self.zeros + other.zeros,
            self.subnormals + other.subnormals, self.infs + other.infs, self.nans + other.nans,
            max(self.max_abs, other.max_abs), min(self.min_abs, other.min_abs), exponents,
        )  # fmt: skip

    def headroom(self, dtype: str = "") -> float:
        """Bits left to overflow: ``log2(largest of the format / max_abs)``; negative: it would overflow."""
        if not self.max_abs:
            return math.inf
        return math.log2(limits(dtype or self.dtype).largest / self.max_abs)

    def depth(self, dtype: str = "") -> float:
        """Bits left to underflow: ``log2(min_abs / smallest normal of the format)``; negative: digits are lost."""
        if math.isinf(self.min_abs):
            return math.inf
        return math.log2(self.min_abs / limits(dtype or self.dtype).smallest_normal)

    def over(self, dtype: str) -> float:
        """Share of elements that would overflow in a format (to a power of two below its largest number)."""
        if self.headroom(dtype) >= 0 or not self.elements:
            return 0.0
        limit = math.floor(math.log2(limits(dtype).largest))
        beyond = sum(count for exponent, count in self.exponents.items() if exponent > limit)
        return max(beyond, 1) / self.elements

    def under(self, dtype: str) -> float:
        """Share of non-zero elements that would become zero in a format (to a power of two)."""
        limit = math.floor(math.log2(limits(dtype).smallest)) - 1
        lost = sum(count for exponent, count in self.exponents.items() if exponent < limit)
        present = sum(self.exponents.values())
        return lost / present if present else 0.0


def measure_address(address: int, elements: int, dtype: str) -> Range:
    """Range of ``elements`` contiguous numbers in memory.

    Args:
        address: of the first byte.
        elements: how many.
        dtype: a name in `LIMITS`.

    Raises:
        UsageError: the format is not known.
    """
    form = limits(dtype)
    width = (1 + form.exponent_bits + form.fraction_bits) // 8
    starts = range(0, max(elements, 1), _PART)
    parts = [(address, start, min(_PART, elements - start), width, form) for start in starts]
    scanned = [_scan_part(*parts[0])] if len(parts) == 1 else spread(_scan_part, parts)
    histogram = functools.reduce(np.add, (h for h, _ in scanned))
    extremes = np.stack([e for _, e in scanned])
    return _range(dtype, form, elements, histogram, extremes)


def measure_array(array: np.ndarray[Any, Any], dtype: str) -> Range:
    """Range of a numpy array (native floats, or unsigned bits of a narrower format)."""
    held = np.ascontiguousarray(array)
    return measure_address(held.ctypes.data, held.size, dtype)


def _scan_part(address: int, start: int, n: int, width: int, form: Limits) -> tuple[Any, Any]:
    histogram = np.zeros((4, 1 << form.exponent_bits), np.int64)
    extremes = np.array([0, np.iinfo(np.uint64).max, 0, 0, 0], np.uint64)
    _scanner()(address, start, n, width, form.fraction_bits, form.top, histogram, extremes)
    return histogram.sum(0), extremes


@functools.cache
def _scanner() -> Callable[..., None]:
    try:
        from whydiff.ranges._kernel import scan
    except ImportError:
        from whydiff.ranges._plain import scan
    return scan


def _range(dtype: str, form: Limits, elements: int, histogram: Any, extremes: Any) -> Range:
    zeros, above, special = (int(extremes[:, column].sum()) for column in (2, 3, 4))
    nans = above if form.infinite else special
    largest, smallest = int(extremes[:, 0].max()), int(extremes[:, 1].min())
    top = histogram.size - 1
    subnormals = int(histogram[0]) - zeros
    powers = {int(exponent) - form.bias: int(histogram[exponent]) for exponent in np.flatnonzero(histogram[1:top]) + 1}
    if subnormals:
        powers[-form.bias] = subnormals
    if int(histogram[top]) > special:  # a format without infinities has numbers there
        powers[top - form.bias] = int(histogram[top]) - special
    least = math.inf if smallest >= form.top else _value(smallest, form)
    return Range(dtype, elements, zeros, subnormals, special - nans, nans, _value(largest, form), least, powers)


def _value(bits: int, form: Limits) -> float:
    exponent, fraction = bits >> form.fraction_bits, bits & ((1 << form.fraction_bits) - 1)
    if exponent == 0:
        return math.ldexp(fraction, 1 - form.bias - form.fraction_bits)
    return math.ldexp((1 << form.fraction_bits) + fraction, exponent - form.bias - form.fraction_bits)
