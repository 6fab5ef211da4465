"""What both passes over pairs of numbers on a GPU need, in Triton: how elements are read, and where results are put.

Imported by `measuring` at the first two tensors there, never before.
"""

from __future__ import annotations

import triton
import triton.language as tl

COLUMNS = 36
"""Of the results of one program: `SUMS` by the order of `whydiff.numbers.metrics`, then its `COUNTS` from "finite" on,
then the largest ULP distance, then how many distances have a bit length of 2k + 1 or 2k + 2, k = 0 .. 15."""

MAX_ABS = tl.constexpr(6)
MAX_REL = tl.constexpr(7)
FINITE = tl.constexpr(8)
DIFFERENT = tl.constexpr(9)
MISMATCHED = tl.constexpr(10)
FLIPS = tl.constexpr(11)
OVER_ZERO = tl.constexpr(12)
INF_MISMATCH = tl.constexpr(13)
NAN_REFERENCE = tl.constexpr(14)
NAN_CANDIDATE = tl.constexpr(15)
NAN_BOTH = tl.constexpr(16)
FIRST = tl.constexpr(17)
ARGMAX = tl.constexpr(18)
MAX_ULP = tl.constexpr(19)
STEPS = tl.constexpr(20)

NONE = tl.constexpr(0x7FFFFFFFFFFFFFFF)
"""In place of an index: there is none."""


@triton.jit
def put(rows, column, value):
    """Store a number of this program; rows are int64 ``[COLUMNS, programs]``, floats by their bits."""
    cell = rows + column * tl.num_programs(0) + tl.program_id(0)
    if value.dtype == tl.float64:
        tl.store(cell, value.to(tl.int64, bitcast=True))
    else:
        tl.store(cell, value.to(tl.int64))


@triton.jit
def flag(negative):
    """1 where a float64 is below 0 (or -0), else 0: one instruction on its upper half, where a comparison takes three."""
    return (negative.to(tl.uint64, bitcast=True) >> 63).to(tl.int32)


@triton.jit
def excess(distance, extent, rtol, atol):
    """Negative exactly where a distance is over the tolerance, rounded as on the host."""
    return (atol + rtol * extent) - distance


@triton.jit
def apart(bits_r, bits_c, MAGNITUDE: tl.constexpr):
    """ULP distance of two numbers given by their bits, sign-extended to int32; unsigned."""
    key_r = bits_r ^ ((bits_r >> 31) & MAGNITUDE)
    key_c = bits_c ^ ((bits_c >> 31) & MAGNITUDE)
    signs = (bits_r ^ bits_c).to(tl.uint32, bitcast=True) >> 31  # -0 has a key of its own
    return (tl.maximum(key_r, key_c) - tl.minimum(key_r, key_c)).to(tl.uint32, bitcast=True) - signs


@triton.jit
def counted(ulp):
    """Sixteen counters of 4 bits in an int64, of which the one of a distance's bit length is 1; none for distance 0."""
    # without the bit below the highest no rounding reaches the next power of two
    exponent = ((ulp ^ (ulp & (ulp >> 1))).to(tl.float32) * 2).to(tl.int32, bitcast=True) >> 22
    return (ulp != 0).to(tl.int64) << (exponent & 0x3C).to(tl.int64)
