"""Binary floating-point formats: their fields, what follows from them, and rounding into them.

Sources: IEEE 754-2019, table 3.5 and section 4.3; Intel, BFLOAT16 hardware numerics definition (2018); NVIDIA A100
white paper (TF32: the exponent of float32, 10 stored bits); Open Compute Project "OFP8" rev. 1.0 (e4m3fn, e5m2) and
"MX" v1.0 (e8m0); Noune et al., arXiv:2206.02915 (fnuz).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A format: value = (-1)**s * 2**(e - bias) * 1.f, subnormal for e = 0.

    Attributes:
        exponent_bits, fraction_bits: widths of the fields.
        bias: of the exponent.
        specials: ``"ieee"`` (top exponent: inf, NaN), ``"fn"`` (only all ones is NaN), ``"fnuz"`` (only the bits of
            -0 are NaN) or ``"e8m0"`` (no sign, no zero, no subnormals, all ones is NaN).
    """

    exponent_bits: int
    fraction_bits: int
    bias: int
    specials: Literal["ieee", "fn", "fnuz", "e8m0"] = "ieee"

    @property
    def precision(self) -> int:
        """Significant bits p, the hidden one included; the unit roundoff is 2**-p."""
        return self.fraction_bits + 1

    @property
    def infinite(self) -> bool:
        """Whether there are infinities; without them too large a value becomes NaN."""
        return self.specials == "ieee"

    @property
    def sign(self) -> int:
        """The mask of the sign bit; 0 if there is none."""
        return 0 if self.specials == "e8m0" else 1 << (self.exponent_bits + self.fraction_bits)

    @property
    def top(self) -> int:
        """The first bit pattern, without the sign, that is not a finite number."""
        ones = 1 << (self.exponent_bits + self.fraction_bits)
        return {"ieee": ones - (1 << self.fraction_bits), "fnuz": ones}.get(self.specials, ones - 1)

    @property
    def largest(self) -> float:
        """Largest finite number."""
        return self.value(self.top - 1)

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number with full precision."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def smallest(self) -> float:
        """Smallest positive number; half of it and less rounds to zero."""
        return math.ldexp(1.0, 1 - self.bias - self.fraction_bits)

    def value(self, bits: int) -> float:
        """The number that a bit pattern stands for."""
        size = bits & ~self.sign
        if size >= self.top or (self.specials == "fnuz" and bits == self.sign):
            found = math.inf if self.infinite and size == self.top else math.nan
        elif self.specials == "e8m0":
            found = math.ldexp(1.0, size - self.bias)
        else:
            exponent, fraction = divmod(size, 1 << self.fraction_bits)
            hidden = 1 << self.fraction_bits if exponent else 0
            found = math.ldexp(hidden + fraction, max(exponent, 1) - self.bias - self.fraction_bits)
        return -found if bits & self.sign else found

    def holds(self, other: Format) -> bool:
        """Whether every finite number of another format is one of this: rounding it to this changes nothing."""
        wide = self.precision >= other.precision and self.smallest <= other.smallest and self.largest >= other.largest
        return self == other or (wide and self.specials != "e8m0")

    def quantum(self, exact: Array) -> Array:
        """The distance of the format's numbers around each value: 2**(max(exponent, emin) - p + 1), float64."""
        _, exponent = np.frexp(exact)  # exact = m * 2**exponent with 0.5 <= abs(m) < 1
        return np.asarray(np.ldexp(1.0, np.maximum(exponent - 1, 1 - self.bias) - self.fraction_bits))

    def nearest(self, exact: Array) -> Array:
        """Finite values of at most `largest`, rounded to nearest, ties to even, by adding to the bits that are dropped."""
        dropped = 52 - self.fraction_bits
        bits = np.array(exact, np.float64, order="C").view(np.int64)
        odd = bits >> dropped
        odd &= 1
        bits += odd
        bits += (1 << (dropped - 1)) - 1
        bits &= -1 << dropped
        found: Array = bits.view(np.float64)
        small = np.abs(exact) < self.smallest_normal  # fewer bits, or none
        if small.any():
            found[small] = self.multiple(exact[small])
        return found

    def multiple(self, exact: Array) -> Array:
        """The nearest multiple of `quantum`, ties to even, however large."""
        quantum = self.quantum(exact)
        return np.asarray(np.rint(exact / quantum) * quantum)


FORMATS = {
    "float64": Format(11, 52, 1023),
    "float32": Format(8, 23, 127),
    "tf32": Format(8, 10, 127),
    "float16": Format(5, 10, 15),
    "bfloat16": Format(8, 7, 127),
    "float8_e4m3fn": Format(4, 3, 7, "fn"),
    "float8_e4m3fnuz": Format(4, 3, 8, "fnuz"),
    "float8_e5m2": Format(5, 2, 15),
    "float8_e5m2fnuz": Format(5, 2, 16, "fnuz"),
    "float8_e8m0fnu": Format(8, 0, 127, "e8m0"),
}
"""From the most to the least significant bits."""
MINIFLOATS = tuple(name for name in FORMATS if name.startswith("float8"))


@functools.cache
def minifloat_table(dtype: str) -> Array:
    """Value of each of the 256 codes of an 8-bit float: float32, shape ``(256,)``, read-only."""
    table = np.array([FORMATS[dtype].value(code) for code in range(256)], np.float32)
    table.flags.writeable = False
    return table


def round_to(exact: Array, dtype: str, *, truncate: bool = False) -> Array:
    """Values rounded into a format: to nearest, ties to even, or towards zero.

    Args:
        exact: float64 values of any shape; every step on them is exact.
        dtype: a key of `FORMATS`; what is too large becomes what the format makes of it (infinity or NaN).
        truncate: towards zero (the low bits are dropped); nothing becomes too large.

    Returns:
        float64 array of the same shape.
    """
    kind = FORMATS[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float64", "float32", "float16") and not truncate:
            return np.asarray(exact.astype(dtype).astype(np.float64))
        if truncate:
            quantum = kind.quantum(exact)
            return np.asarray(np.clip(np.trunc(exact / quantum) * quantum, -kind.largest, kind.largest))
        if kind.infinite and np.abs(exact).max(initial=0.0) <= kind.largest:
            return kind.nearest(exact)
        result = kind.multiple(exact)
        beyond = math.inf if kind.infinite else math.nan
        result = np.where(np.abs(result) > kind.largest, np.copysign(beyond, result), result)
    return np.asarray(result + 0.0 if kind.specials == "fnuz" else result)  # fnuz has no negative zero
