"""Range of every floating format: largest finite, smallest normal, smallest subnormal number.

Sources: IEEE 754-2019 (binary16, 32, 64); Intel, BFLOAT16 hardware numerics definition (2018); Micikevicius et al.,
"FP8 formats for deep learning", arXiv:2209.05433 (e4m3fn, e5m2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from whydiff.errors import UsageError


@dataclass(frozen=True, slots=True)
class Limits:
    """One binary format.

    Attributes:
        exponent_bits, fraction_bits: widths of the fields.
        bias: exponent bias.
        largest: largest finite number.
        infinite: whether the format has infinities (e4m3fn has not: it overflows to NaN).
    """

    exponent_bits: int
    fraction_bits: int
    bias: int
    largest: float
    infinite: bool = True

    @property
    def top(self) -> int:
        """The first bit pattern, without the sign, that is not a finite number."""
        ones = (1 << self.exponent_bits) - 1
        return ones << self.fraction_bits if self.infinite else (ones << self.fraction_bits) | self._fractions

    @property
    def _fractions(self) -> int:
        return (1 << self.fraction_bits) - 1

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number with full precision."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def smallest(self) -> float:
        """Smallest positive number; half of it and less rounds to zero."""
        return math.ldexp(1.0, 1 - self.bias - self.fraction_bits)


LIMITS = {
    "float64": Limits(11, 52, 1023, 1.7976931348623157e308),
    "float32": Limits(8, 23, 127, 3.4028234663852886e38),
    "bfloat16": Limits(8, 7, 127, 3.3895313892515355e38),
    "float16": Limits(5, 10, 15, 65504.0),
    "float8_e5m2": Limits(5, 2, 15, 57344.0),
    "float8_e4m3fn": Limits(4, 3, 7, 448.0, infinite=False),
}
"""Formats by name, widest range first."""


def limits(dtype: str) -> Limits:
    """Limits of a format.

    Raises:
        UsageError: not a floating format that is known here.
    """
    if dtype not in LIMITS:
        raise UsageError("The range of this dtype is not known.", actual=dtype, expected=", ".join(LIMITS))
    return LIMITS[dtype]


def narrower(dtype: str) -> tuple[str, ...]:
    """Formats with a smaller range than a format's own, widest first."""
    own = limits(dtype)
    return tuple(
        name
        for name, other in LIMITS.items()
        if (other.largest, -other.smallest) < (own.largest, -own.smallest) and other.largest <= own.largest
    )
