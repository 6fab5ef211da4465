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

from whydiff.numbers.formats import Format
from whydiff.numbers.kernels import kernel_of
from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.ranges import _plain
from whydiff.numbers.ranges.limits import LIMITS, limits, narrower

__all__ = ["LIMITS", "Range", "Tally", "limits", "measure_address", "measure_array", "narrower"]

_PART = 1 << 20  # elements that one thread scans at a time
_NUMPY_CALL, _NUMPY_ELEMENT, _NUMBA_LOADS = 30e-6, 30e-9, 0.4
"""Seconds: of a scan in plain numpy, of each of its elements, and of loading numba (speed only, never the numbers)."""

_spent = 0.0


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
            dtype=self.dtype,
            elements=self.elements + other.elements,
            zeros=self.zeros + other.zeros,
            subnormals=self.subnormals + other.subnormals,
            infs=self.infs + other.infs,
            nans=self.nans + other.nans,
            max_abs=max(self.max_abs, other.max_abs),
            min_abs=min(self.min_abs, other.min_abs),
            exponents=exponents,
        )

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


class Tally:
    """Statistics of values of one format, added up tensor by tensor where they lie in memory.

    Args:
        dtype: a name in `LIMITS`.

    Raises:
        UsageError: the format is not known.
    """

    __slots__ = ("_how", "dtype", "form", "row")

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.form, self._how, empty = _format(dtype)
        self.row = empty.copy()

    def add(self, address: int, elements: int) -> tuple[float, int, int]:
        """Add ``elements`` contiguous numbers in memory, the first byte of which is at ``address``.

        Returns:
            Of these numbers alone: the largest finite magnitude, how many are inf or NaN, how many are zero.
        """
        if elements <= _PART:
            return _scanner(elements)(address, 0, elements, *self._how, self.row)
        starts = range(0, elements, _PART)
        rows = [_format(self.dtype)[2].copy() for _ in starts]
        parts = [
            (address, start, min(start + _PART, elements), *self._how, row)
            for start, row in zip(starts, rows, strict=True)
        ]
        found = spread(_scanner(elements), parts)
        for row in rows:
            largest, smallest = max(self.row[4], row[4]), min(self.row[5], row[5])
            self.row += row
            self.row[4], self.row[5] = largest, smallest
        return max(f[0] for f in found), sum(f[1] for f in found), sum(f[2] for f in found)

    def range(self) -> Range:
        """What was added so far."""
        form = self.form
        elements, zeros, special, above, largest, smallest = self.row[:6].tolist()
        nans = above if form.infinite else special
        low = max(min(smallest + 1, form.top - 1) >> form.fraction_bits, 1)
        high = largest >> form.fraction_bits
        counts = self.row[6 + low : 7 + high].tolist()
        powers = {e: count for e, count in enumerate(counts, low - form.bias) if count}
        subnormals = int(self.row[6]) - zeros
        if subnormals:
            powers[-form.bias] = subnormals
        if special and high == self.row.size - 7:  # a format without infinities has numbers there
            powers[high - form.bias] -= special
        least = math.inf if smallest + 1 >= form.top else form.value(smallest + 1)
        return Range(
            dtype=self.dtype,
            elements=elements,
            zeros=zeros,
            subnormals=subnormals,
            infs=special - nans,
            nans=nans,
            max_abs=form.value(largest),
            min_abs=least,
            exponents=powers,
        )


def measure_address(address: int, elements: int, dtype: str) -> Range:
    """Range of ``elements`` contiguous numbers in memory.

    Args:
        address: of the first byte.
        elements: how many.
        dtype: a name in `LIMITS`.

    Raises:
        UsageError: the format is not known.
    """
    tally = Tally(dtype)
    tally.add(address, elements)
    return tally.range()


def measure_array(array: np.ndarray[Any, Any], dtype: str) -> Range:
    """Range of a numpy array (native floats, or unsigned bits of a narrower format)."""
    held = np.ascontiguousarray(array)
    return measure_address(held.ctypes.data, held.size, dtype)


@functools.cache
def _format(dtype: str) -> tuple[Format, tuple[int, int, int, int], Any]:
    """The format, what the scan is told (bytes, fraction bits, bias, first pattern not finite), a row with nothing in it."""
    form = limits(dtype)
    row = np.zeros(6 + (1 << form.exponent_bits), np.uint64)
    row[5] = 0xFFFFFFFFFFFFFFFF
    how = ((1 + form.exponent_bits + form.fraction_bits) // 8, form.fraction_bits, form.bias, form.top)
    return form, how, row


def _scanner(elements: int) -> Callable[..., tuple[float, int, int]]:
    """Plain numpy until this process has spent on it what loading numba takes; the numbers are the same."""
    global _spent
    _spent += _NUMPY_CALL + elements * _NUMPY_ELEMENT
    return _compiled() if _spent > _NUMBA_LOADS else _plain.scan


@functools.cache
def _compiled() -> Callable[..., tuple[float, int, int]]:
    return (kernel_of("ranges") or _plain).scan  # type: ignore[no-any-return]
