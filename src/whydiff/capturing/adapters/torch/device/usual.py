"""The one-pass comparison of pairs of finite numbers on a GPU, in Triton: nearly all pairs of nearly all tensors.

It is bound by instructions, not by memory: a pair of 16-bit numbers may take about forty. Therefore

- elements are read as words, several at once, and nothing asks whether a number is finite: a chunk of pairs is added up
  by itself, and a sum of squares that is not finite tells that one of them was not. Such a chunk is left to `every`;
  so is one in which a product is -0, because zeros of two signs differ in their bits and have no distance;
- maxima are not kept for every lane: a turn is looked at once more where some pair exceeds what the program has found
  so far, as is the first chunk with a pair over the tolerance. That is seldom, the logarithm of the number of turns;
- signs are counted by moving them to the lowest bit, not by comparing;
- of 16-bit numbers, a sign and 15 bits are a denormal float32 as they are: their difference is exact and is the ULP
  distance, ready to be scaled so that its exponent is half the bit length.

Sums are float64, each pair added by itself, as everywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

from whydiff.capturing.adapters.torch.device.pairs import (
    ARGMAX,
    DIFFERENT,
    FINITE,
    FIRST,
    FLIPS,
    INF_MISMATCH,
    MAX_ABS,
    MAX_REL,
    MAX_ULP,
    MISMATCHED,
    NAN_BOTH,
    NONE,
    OVER_ZERO,
    STEPS,
    apart,
    counted,
    excess,
    flag,
    put,
)

UNIT = tl.constexpr(12)
"""Pairs of a lane for which a counter of four bits is enough."""
SCALE = tl.constexpr(2.0**125)
ABOVE = tl.constexpr(1 + 2.0**-52)
"""The largest ratio so far, times this, times an extent is no smaller than a distance of the same ratio."""
BAD = tl.constexpr(1 << 30)
"""Told by a lane of a chunk that is left to `every`; lower bits are turns with a peak."""
OVER = tl.constexpr(1 << 29)
"""Told by a lane of a chunk with a pair over the tolerance."""


@triton.jit
def _either(one, other):
    return one | other


@triton.jit
def _words(tensor, at, DTYPE: tl.constexpr, EACH: tl.constexpr):
    """``EACH`` elements of every lane, in a word that they fill."""
    if DTYPE == "float32" or EACH == 4:
        return tl.load(tensor.to(tl.pointer_type(tl.int64)) + at)
    else:
        return tl.load(tensor.to(tl.pointer_type(tl.int32)) + at)


@triton.jit
def _bits(words, k: tl.constexpr, DTYPE: tl.constexpr):
    """Of element ``k`` of a word: int32, sign-extended."""
    if DTYPE == "float32":
        return (words >> (32 * k)).to(tl.int32)
    elif k % 2:
        return (words >> (32 * (k // 2))).to(tl.int32) >> 16
    else:
        return ((words >> (32 * (k // 2))).to(tl.int32) << 16) >> 16


@triton.jit
def _value(words, k: tl.constexpr, DTYPE: tl.constexpr):
    """Element ``k`` of a word: float32."""
    if DTYPE == "float32":
        return (words >> (32 * k)).to(tl.int32).to(tl.float32, bitcast=True)
    elif DTYPE == "float16":
        return (words >> (16 * k)).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif k % 2:
        return ((words >> (32 * (k // 2))).to(tl.int32) & -0x10000).to(tl.float32, bitcast=True)
    else:
        return ((words >> (32 * (k // 2))).to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def _apart_narrow(bits_r, bits_c):
    """Bits of the ULP distance of two numbers of 16 bits, times 2**-125; and eight counters, the last that of 1 to 3."""
    key_r = (bits_r & -0x7FFF8001).to(tl.float32, bitcast=True)
    key_c = (bits_c & -0x7FFF8001).to(tl.float32, bitcast=True)
    ulp = (tl.abs(key_c - key_r) * 0x1000000).to(tl.int32, bitcast=True)
    place = (ulp >> 22) & 0x3C  # 0 for 0: its counter is beyond the word
    return ulp, (0x100000000 >> place.to(tl.int64)).to(tl.int32)


@triton.jit
def _peaks(
    reference,
    candidate,
    begin,
    rtol,
    atol,
    OURS: tl.constexpr,
    THEIRS: tl.constexpr,
    EACH: tl.constexpr,
    UNITS: tl.constexpr,
    LANES: tl.constexpr,
):
    """Of one turn: the largest distance, its place, the largest ratio, the first over the tolerance, pairs over zero."""
    lane = tl.arange(0, LANES)
    largest = tl.zeros((LANES,), tl.float64)
    most = tl.full((LANES,), 0x7FFFFFFF, tl.int32)
    first = tl.full((LANES,), 0x7FFFFFFF, tl.int32)
    steep = tl.zeros((LANES,), tl.float64)  # the steepest pair's distance, and the extent that it is divided by
    base = tl.full((LANES,), 1.0, tl.float64)
    over_zero = tl.zeros((LANES,), tl.int32)
    for unit in range(UNITS):
        r = _words(reference, begin + unit * LANES + lane, OURS, EACH)
        c = _words(candidate, begin + unit * LANES + lane, THEIRS, EACH)
        for k in tl.static_range(EACH):
            x = _value(r, k, OURS).to(tl.float64)
            distance = tl.abs(_value(c, k, THEIRS).to(tl.float64) - x)
            extent = tl.abs(x)
            place = (unit * LANES + lane) * EACH + k
            first = tl.minimum(first, tl.where(excess(distance, extent, rtol, atol) < 0, place, 0x7FFFFFFF))
            most = tl.where(distance > largest, place, most)
            largest = tl.where(distance > largest, distance, largest)
            over_zero += ((extent == 0) & (distance != 0)).to(tl.int32)
            steeper = (extent > 0) & (distance * base > steep * extent)
            steep = tl.where(steeper, distance, steep)
            base = tl.where(steeper, extent, base)
    top = tl.max(largest, axis=0)
    at_top = tl.min(tl.where(largest == top, most, 0x7FFFFFFF), axis=0)
    return top, at_top, tl.max(steep / base, axis=0), tl.min(first, axis=0), over_zero


@triton.jit
def _put_steps(rows, counters, k: tl.constexpr, NARROW: tl.constexpr):
    """Store every fourth bit length's count, from the ``k``-th on; returns their sum."""
    whole = tl.zeros((), tl.int32)
    for field in tl.static_range(4):
        if NARROW and field >= 2:
            put(rows, STEPS + 4 * field + k, tl.zeros((), tl.int32))
        else:
            part = tl.sum(((counters >> (16 * field)) & 0xFFFF).to(tl.int32), axis=0)
            whole += part
            put(rows, STEPS + (7 - 4 * field - k if NARROW else 4 * field + k), part)
    return whole


@triton.jit(do_not_specialize=["chunks"])
def usual(
    reference,
    candidate,
    limits,
    rows,
    left,
    chunks,
    OURS: tl.constexpr,
    THEIRS: tl.constexpr,
    TOLERANT: tl.constexpr,
    LANES: tl.constexpr,
    TURNS: tl.constexpr,
):
    """Chunks of ``LANES * UNIT * TURNS`` pairs, of which every program takes one after the other.

    Args:
        reference: dense, at an address of whole words.
        candidate: likewise, as many elements.
        limits: float64, rtol and atol.
        rows: int64 ``[COLUMNS, programs]``: the results.
        left: int32 ``[programs, 1 + most chunks of a program]``: how many chunks each left to `every`, and which.
        chunks: whole ones of both tensors.
        OURS: dtype of the reference.
        THEIRS: dtype of the candidate.
        TOLERANT: whether a limit is not 0.
        LANES: threads of a program.
        TURNS: units of a chunk.
    """
    NARROW: tl.constexpr = OURS == THEIRS and OURS != "float32"
    EACH: tl.constexpr = 4 if NARROW else 2
    UNITS: tl.constexpr = UNIT // EACH
    WORDS: tl.constexpr = UNITS * TURNS
    COUNTERS: tl.constexpr = tl.int32 if NARROW else tl.int64
    FOURS: tl.constexpr = 0x0F0F0F0F if NARROW else 0x0F0F0F0F0F0F0F0F
    EIGHTS: tl.constexpr = 0x00FF00FF if NARROW else 0x00FF00FF00FF00FF
    rtol = tl.load(limits)
    atol = tl.load(limits + 1)
    lane = tl.arange(0, LANES)
    sum_abs = tl.zeros((LANES,), tl.float64)
    sum_d = tl.zeros((LANES,), tl.float64)
    sum_dd = tl.zeros((LANES,), tl.float64)
    sum_rr = tl.zeros((LANES,), tl.float64)
    sum_cc = tl.zeros((LANES,), tl.float64)
    sum_rc = tl.zeros((LANES,), tl.float64)
    over = tl.zeros((LANES,), tl.int32)
    flips = tl.zeros((LANES,), tl.int32)
    farthest = tl.zeros((LANES,), tl.int32 if NARROW else tl.uint32)
    steps0 = tl.zeros((LANES,), COUNTERS)  # of 16 bits each
    steps1 = tl.zeros((LANES,), COUNTERS)
    steps2 = tl.zeros((LANES,), COUNTERS)
    steps3 = tl.zeros((LANES,), COUNTERS)
    over_zero = tl.zeros((LANES,), tl.int32)
    largest = tl.zeros((), tl.float64)
    steepest = tl.zeros((), tl.float64)
    most = tl.full((), NONE, tl.int64)
    first = tl.full((), NONE, tl.int64)
    taken = tl.zeros((), tl.int32)
    program = tl.program_id(0)
    places = left + program * (1 + tl.cdiv(chunks, tl.num_programs(0)))
    seen = tl.zeros((), tl.int32)
    for chunk in range(program, chunks, tl.num_programs(0)):
        begin = (tl.zeros((), tl.int64) + chunk) * (WORDS * LANES)
        bound = steepest * ABOVE
        abs_here = tl.zeros((LANES,), tl.float64)
        d_here = tl.zeros((LANES,), tl.float64)
        dd_here = tl.zeros((LANES,), tl.float64)
        rr_here = tl.zeros((LANES,), tl.float64)
        cc_here = tl.zeros((LANES,), tl.float64)
        rc_here = tl.zeros((LANES,), tl.float64)
        over_here = tl.zeros((LANES,), tl.int32)
        flips_here = tl.zeros((LANES,), tl.int32)
        far_here = tl.zeros((LANES,), tl.int32 if NARROW else tl.uint32)
        even = tl.zeros((LANES,), COUNTERS)  # of 8 bits each
        odd = tl.zeros((LANES,), COUNTERS)
        lowest = tl.zeros((LANES,), tl.int32)
        peaks = tl.zeros((LANES,), tl.int32)  # a bit for every turn
        for turn in range(TURNS):
            higher = tl.zeros((LANES,), tl.int1)
            steps = tl.zeros((LANES,), COUNTERS)  # of 4 bits each
            for unit in tl.static_range(UNITS):
                at = begin + (turn * UNITS + unit) * LANES + lane
                r = _words(reference, at, OURS, EACH)
                c = _words(candidate, at, THEIRS, EACH)
                for k in tl.static_range(EACH):
                    short_x = _value(r, k, OURS)
                    short_y = _value(c, k, THEIRS)
                    x = short_x.to(tl.float64)
                    y = short_y.to(tl.float64)
                    d = y - x
                    distance = tl.abs(d)
                    extent = tl.abs(x)
                    abs_here += distance
                    d_here += d
                    dd_here = tl.fma(d, d, dd_here)
                    rr_here = tl.fma(x, x, rr_here)
                    cc_here = tl.fma(y, y, cc_here)
                    rc_here = tl.fma(x, y, rc_here)
                    higher = (higher | (distance > bound * extent)) | (distance > largest)
                    if TOLERANT:
                        over_here += flag(excess(distance, extent, rtol, atol))
                    product = (short_x * short_y).to(tl.int32, bitcast=True)
                    lowest = tl.minimum(lowest, product)  # -0 has the lowest bits
                    flips_here += (product.to(tl.uint32, bitcast=True) >> 31).to(tl.int32)
                    if NARROW:
                        ulp, one = _apart_narrow(_bits(r, k, OURS), _bits(c, k, THEIRS))
                    else:
                        bits_r = short_x.to(tl.int32, bitcast=True)
                        ulp = apart(bits_r, short_y.to(tl.int32, bitcast=True), 0x7FFFFFFF)
                        one = counted(ulp)
                    far_here = tl.maximum(far_here, ulp)
                    steps += one
            peaks |= higher.to(tl.int32) << turn
            even += steps & FOURS
            odd += (steps >> 4) & FOURS
        if not TOLERANT:
            over_here = ((even | odd) != 0).to(tl.int32)
        bad = (lowest == -0x80000000) | ~(rr_here + cc_here < float("inf"))
        told = peaks | tl.where(bad, BAD, 0) | tl.where(over_here != 0, OVER, 0)
        told = tl.reduce(told, 0, _either)
        if (told & BAD) != 0:
            seen += 1
            tl.store(places + seen, chunk)
        else:
            taken += 1
            sum_abs += abs_here
            sum_d += d_here
            sum_dd += dd_here
            sum_rr += rr_here
            sum_cc += cc_here
            sum_rc += rc_here
            over += over_here
            flips += flips_here
            farthest = tl.maximum(farthest, far_here)
            steps0 += even & EIGHTS
            steps1 += odd & EIGHTS
            steps2 += (even >> 8) & EIGHTS
            steps3 += (odd >> 8) & EIGHTS
            if ((told & OVER) != 0) & (first == NONE):
                told = OVER - 1
            if (told & (OVER - 1)) != 0:
                for turn in range(TURNS):
                    if ((told >> turn) & 1) != 0:
                        at = begin + turn * (UNITS * LANES)
                        top, at_top, ratio, at_first, zeros = _peaks(
                            reference, candidate, at, rtol, atol, OURS, THEIRS, EACH, UNITS, LANES
                        )
                        over_zero += zeros
                        steepest = tl.maximum(steepest, ratio)
                        if top > largest:
                            largest = top
                            most = at * EACH + at_top
                        if (first == NONE) & (at_first != 0x7FFFFFFF):
                            first = at * EACH + at_first
    tl.store(places, seen)
    put(rows, 0, tl.sum(sum_abs, axis=0))
    put(rows, 1, tl.sum(sum_d, axis=0))
    put(rows, 2, tl.sum(sum_dd, axis=0))
    put(rows, 3, tl.sum(sum_rr, axis=0))
    put(rows, 4, tl.sum(sum_cc, axis=0))
    put(rows, 5, tl.sum(sum_rc, axis=0))
    put(rows, MAX_ABS, largest)
    put(rows, MAX_REL, steepest)
    put(rows, FINITE, taken.to(tl.int64) * (WORDS * LANES * EACH))
    put(rows, FLIPS, tl.sum(flips, axis=0))
    put(rows, OVER_ZERO, tl.sum(over_zero, axis=0))
    for column in tl.static_range(INF_MISMATCH, NAN_BOTH + 1):
        put(rows, column, tl.zeros((), tl.int32))
    put(rows, FIRST, first)
    put(rows, ARGMAX, most)
    far = tl.max(farthest, axis=0)
    if NARROW:
        far = (far.to(tl.float32, bitcast=True) * SCALE).to(tl.int32)
    put(rows, MAX_ULP, far)
    different = _put_steps(rows, steps0, 0, NARROW) + _put_steps(rows, steps1, 1, NARROW)
    different += _put_steps(rows, steps2, 2, NARROW) + _put_steps(rows, steps3, 3, NARROW)
    put(rows, DIFFERENT, different)
    if TOLERANT:
        put(rows, MISMATCHED, tl.sum(over, axis=0))
    else:
        put(rows, MISMATCHED, different)
