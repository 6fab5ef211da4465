"""One pass over raw memory: extremes, zeros, inf, NaN and the histogram of exponents, compiled with numba.

A block of elements is read twice while it lies in the level-1 cache: once in SIMD lanes for the extremes and the
zeros (integers without the sign are ordered like magnitudes), once element by element for the histogram. Blocks
that hold inf or NaN are read a third time. The loops are written out per width: a loop over elements of a width that
is not known at compile time stays out of SIMD.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whydiff.numbers.kernels.compiled import compiled, i64, load_u8, load_u16, load_u32, load_u64, nb, u16, u32, u64

BLOCK = 8192
"""Elements read before the counts of a block (16 bits wide for halves) are added up."""
_EXTREMES = nb.types.Tuple((u64, u64, i64))


@compiled(_EXTREMES(u64, i64, i64))
def _extremes16(address: Any, first: Any, last: Any) -> Any:
    """Largest bits, smallest bits other than zero less one (the largest integer if none), zeros."""
    high, low, zeros = u16(0), u16(0xFFFF), u16(0)
    for i in range(first, last):
        bits = u16(load_u16(address, i) & u16(0x7FFF))
        high = max(high, bits)
        low = min(low, u16(bits - u16(1)))
        zeros = u16(zeros + u16(bits == u16(0)))
    return u64(high), u64(low), np.int64(zeros)


@compiled(_EXTREMES(u64, i64, i64))
def _extremes32(address: Any, first: Any, last: Any) -> Any:
    high, low, zeros = u32(0), u32(0xFFFFFFFF), u32(0)
    for i in range(first, last):
        bits = u32(load_u32(address, i) & u32(0x7FFFFFFF))
        high = max(high, bits)
        low = min(low, u32(bits - u32(1)))
        zeros = u32(zeros + u32(bits == u32(0)))
    return u64(high), u64(low), np.int64(zeros)


@compiled(_EXTREMES(u64, i64, i64))
def _extremes64(address: Any, first: Any, last: Any) -> Any:
    high, low, zeros = u64(0), u64(0xFFFFFFFFFFFFFFFF), u64(0)
    for i in range(first, last):
        bits = load_u64(address, i) & u64(0x7FFFFFFFFFFFFFFF)
        high = max(high, bits)
        low = min(low, bits - u64(1))
        zeros += u64(bits == u64(0))
    return high, low, np.int64(zeros)


@compiled(_EXTREMES(u64, i64, i64))
def _extremes8(address: Any, first: Any, last: Any) -> Any:
    high, low, zeros = u64(0), u64(0xFFFFFFFFFFFFFFFF), np.int64(0)
    for i in range(first, last):
        bits = u64(load_u8(address, i)) & u64(0x7F)
        high = max(high, bits)
        low = min(low, bits - u64(1))
        zeros += np.int64(bits == u64(0))
    return high, low, zeros


@compiled(u64(u64, i64, i64))
def _bits(address: Any, index: Any, width: Any) -> Any:
    """One element without its sign."""
    if width == 2:
        return u64(load_u16(address, index)) & u64(0x7FFF)
    if width == 4:
        return u64(load_u32(address, index)) & u64(0x7FFFFFFF)
    if width == 8:
        return load_u64(address, index) & u64(0x7FFFFFFFFFFFFFFF)
    return u64(load_u8(address, index)) & u64(0x7F)


@compiled(nb.types.void(u64, i64, i64, i64, u64, i64[:, ::1]))
def _exponents(address: Any, first: Any, last: Any, width: Any, fraction: Any, histogram: Any) -> None:
    """Count the exponents of the elements ``first <= i < last`` in four interleaved histograms.

    Elements of 2 and 4 bytes are read as words of 8. Four histograms: neighbours have equal exponents, and an
    addition to a counter has to wait for the last one to the same counter.
    """
    i = first
    if width == 4:
        mask = u64(0xFF)
        upper = fraction + u64(32)
        while i + 4 <= last:
            one, two = load_u64(address + u64(4 * i), 0), load_u64(address + u64(4 * i), 1)
            histogram[0, np.int64((one >> fraction) & mask)] += 1
            histogram[1, np.int64((one >> upper) & mask)] += 1
            histogram[2, np.int64((two >> fraction) & mask)] += 1
            histogram[3, np.int64((two >> upper) & mask)] += 1
            i += 4
    elif width == 2:
        mask = (u64(1) << (u64(15) - fraction)) - u64(1)
        while i + 4 <= last:
            word = load_u64(address + u64(2 * i), 0)
            histogram[0, np.int64((word >> fraction) & mask)] += 1
            histogram[1, np.int64((word >> (fraction + u64(16))) & mask)] += 1
            histogram[2, np.int64((word >> (fraction + u64(32))) & mask)] += 1
            histogram[3, np.int64((word >> (fraction + u64(48))) & mask)] += 1
            i += 4
    while i < last:
        histogram[i & 3, np.int64(_bits(address, i, width) >> fraction)] += 1
        i += 1


@compiled(nb.types.Tuple((nb.float64, nb.int64, nb.int64))(u64, *[i64] * 5, u64, u64[::1]))
def scan(address: Any, first: Any, last: Any, width: Any, fraction: Any, bias: Any, top: Any, row: Any) -> Any:
    """Add the elements ``first <= i < last`` to a row of statistics.

    Args:
        address: of element 0.
        first, last: element range.
        width: bytes per element (1, 2, 4, 8).
        fraction, bias: fraction bits and exponent bias of the format.
        top: the first pattern (without the sign) that is not finite.
        row: uint64, added to: elements, zeros, from top, above top, largest finite bits, smallest bits other than
            zero less one, then the histogram over the exponent field.

    Returns:
        Of these elements alone: largest finite magnitude, how many are not finite, how many are zero.
    """
    shift = u64(fraction)
    histogram = np.zeros((4, row.size - 6), np.int64)
    largest, smallest = u64(0), u64(0xFFFFFFFFFFFFFFFF)
    zeros, special, above = np.int64(0), np.int64(0), np.int64(0)
    begin = first
    while begin < last:
        end = min(begin + BLOCK, last)
        if width == 4:
            high, low, none = _extremes32(address, begin, end)
        elif width == 2:
            high, low, none = _extremes16(address, begin, end)
        elif width == 8:
            high, low, none = _extremes64(address, begin, end)
        else:
            high, low, none = _extremes8(address, begin, end)
        if high >= top:
            high = u64(0)
            for i in range(begin, end):
                bits = _bits(address, i, width)
                special += bits >= top
                above += bits > top
                if bits < top and bits > high:
                    high = bits
        largest = max(largest, high)
        if none < end - begin:  # else ``low`` is the narrow loop's largest integer
            smallest = min(smallest, low)
        zeros += none
        _exponents(address, begin, end, width, shift, histogram)
        begin = end
    row[0] += u64(max(last - first, 0))
    row[1] += u64(zeros)
    row[2] += u64(special)
    row[3] += u64(above)
    row[4] = max(row[4], largest)
    row[5] = min(row[5], smallest)
    for e in range(row.size - 6):
        row[6 + e] += u64(histogram[0, e] + histogram[1, e] + histogram[2, e] + histogram[3, e])
    exponent = np.int64(largest >> shift)
    mantissa = largest & ((u64(1) << shift) - u64(1))
    if exponent > 0:
        mantissa += u64(1) << shift
    else:
        exponent = np.int64(1)
    power: Any = np.int32(exponent - bias - fraction)
    return math.ldexp(np.float64(mantissa), power), special, zeros
