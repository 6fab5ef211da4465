"""The one-pass comparison of any pairs of numbers on a GPU, in Triton: what `usual` left, and what fills no chunk.

The same statistics, where some numbers are NaN or infinite, or zeros of two signs stand opposite one another.
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
    NAN_CANDIDATE,
    NAN_REFERENCE,
    NONE,
    OVER_ZERO,
    STEPS,
    apart,
    counted,
    excess,
    put,
)


@triton.jit
def _float32(value):
    """Widened exactly."""
    if value.dtype == tl.bfloat16:
        return (value.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return value.to(tl.float32)


@triton.jit
def _bits(value, NARROW: tl.constexpr):
    """Of a number, or of the float32 that it is widened to exactly, in which NaN are those of the host; int32."""
    if NARROW:
        return value.to(tl.int16, bitcast=True).to(tl.int32)
    wide = _float32(value).to(tl.int32, bitcast=True)
    if value.dtype == tl.float16:
        own = value.to(tl.int16, bitcast=True).to(tl.int32)
        wide = tl.where((own & 0x7FFF) > 0x7C00, ((own & 0x8000) << 16) | 0x7F800000 | ((own & 0x3FF) << 13), wide)
    return wide


@triton.jit
def _held(rows, column, whole):
    """What `usual` put into a column of this program; 0 where it did not run."""
    return tl.load(rows + column * tl.num_programs(0) + tl.program_id(0), mask=whole == 0, other=0)


@triton.jit
def _add(rows, column, whole, value):
    put(rows, column, _held(rows, column, whole) + value.to(tl.int64))


@triton.jit
def _add_float(rows, column, whole, value):
    put(rows, column, _held(rows, column, whole).to(tl.float64, bitcast=True) + tl.sum(value, axis=0))


@triton.jit
def _add_two(rows, low, high, whole, counters):
    """Both halves of every lane's word, each into a column of its own."""
    _add(rows, low, whole, tl.sum((counters & 0xFFFF).to(tl.int64), axis=0))
    _add(rows, high, whole, tl.sum(((counters >> 16) & 0xFFFF).to(tl.int64), axis=0))


@triton.jit(do_not_specialize=["size", "chunks", "whole"])
def every(
    reference,
    candidate,
    limits,
    rows,
    left,
    size,
    chunks,
    whole,
    NARROW: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Chunks that are named in ``left``, and the last pairs; or all.

    Args:
        reference: dense.
        candidate: likewise, as many elements.
        limits: float64, rtol and atol.
        rows: int64 ``[COLUMNS, programs]``: the results, which are added to.
        left: int32 ``[programs, 1 + most chunks of a program]``, as `usual` wrote it.
        size: pairs.
        chunks: whole ones.
        whole: not 0: nothing was written to ``rows`` and ``left``, and every chunk is taken.
        NARROW: whether both are of one dtype of 16 bits.
        CHUNK: pairs of a chunk, at most 15 for every lane.
        BLOCK: lanes.
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    rtol = tl.load(limits)
    atol = tl.load(limits + 1)
    places = left + program * (1 + tl.cdiv(chunks, programs))
    listed = tl.load(places, mask=whole == 0, other=0)
    last = (size > chunks.to(tl.int64) * CHUNK) & (program == chunks % programs)
    number = listed + last.to(tl.int32)
    if whole != 0:
        number = (chunks + 1 - program + programs - 1) // programs
    if number > 0:
        lane = tl.arange(0, BLOCK)
        sum_abs = tl.zeros((BLOCK,), tl.float64)
        sum_d = tl.zeros((BLOCK,), tl.float64)
        sum_dd = tl.zeros((BLOCK,), tl.float64)
        sum_rr = tl.zeros((BLOCK,), tl.float64)
        sum_cc = tl.zeros((BLOCK,), tl.float64)
        sum_rc = tl.zeros((BLOCK,), tl.float64)
        largest = tl.zeros((BLOCK,), tl.float64)
        steep = tl.zeros((BLOCK,), tl.float64)  # the steepest pair's distance, and the extent that it is divided by
        base = tl.full((BLOCK,), 1.0, tl.float64)
        farthest = tl.zeros((BLOCK,), tl.uint32)
        first = tl.full((BLOCK,), NONE, tl.int64)
        most = tl.full((BLOCK,), NONE, tl.int64)
        finite_different = tl.zeros((BLOCK,), tl.int32)  # two counters in each
        over_flips = tl.zeros((BLOCK,), tl.int32)
        zero_infinite = tl.zeros((BLOCK,), tl.int32)
        nan_nan = tl.zeros((BLOCK,), tl.int32)
        nan_both = tl.zeros((BLOCK,), tl.int32)
        steps0 = tl.zeros((BLOCK,), tl.int64)  # four counters in each
        steps1 = tl.zeros((BLOCK,), tl.int64)
        steps2 = tl.zeros((BLOCK,), tl.int64)
        steps3 = tl.zeros((BLOCK,), tl.int64)
        for index in range(number):
            chunk = tl.load(places + 1 + index, mask=(whole == 0) & (index < listed), other=0)
            if whole != 0:
                chunk = program + index * programs
            elif index >= listed:
                chunk = chunks
            begin = chunk.to(tl.int64) * CHUNK
            steps = tl.zeros((BLOCK,), tl.int64)
            for start in range(0, CHUNK, BLOCK):
                at = begin + start + lane
                there = at < size
                r = tl.load(reference + at, mask=there, other=0.0)
                c = tl.load(candidate + at, mask=there, other=0.0)
                bits_r = _bits(r, NARROW)
                bits_c = _bits(c, NARROW)
                short_x = _float32(r)
                short_y = _float32(c)
                nan_x = short_x != short_x
                nan_y = short_y != short_y
                both = nan_x & nan_y
                finite = (tl.abs(short_x) < float("inf")) & (tl.abs(short_y) < float("inf"))
                flips = ((short_x < 0) & (short_y > 0)) | ((short_x > 0) & (short_y < 0))
                unequal = (~finite) & (~((short_x == short_y) | both))
                x = tl.where(finite, short_x, 0.0).to(tl.float64)
                y = tl.where(finite, short_y, 0.0).to(tl.float64)
                d = y - x
                distance = tl.abs(d)
                extent = tl.abs(x)
                over = (excess(distance, extent, rtol, atol) < 0) | unequal
                sum_abs += distance
                sum_d += d
                sum_dd += d * d
                sum_rr += x * x
                sum_cc += y * y
                sum_rc += x * y
                steeper = (extent > 0) & (distance * base > steep * extent)
                steep = tl.where(steeper, distance, steep)
                base = tl.where(steeper, extent, base)
                most = tl.where(distance > largest, at, most)
                largest = tl.maximum(largest, distance)
                first = tl.where((first == NONE) & over, at, first)
                finite_different += (finite & there).to(tl.int32) + ((bits_r != bits_c).to(tl.int32) << 16)
                over_flips += over.to(tl.int32) + (flips.to(tl.int32) << 16)
                zero_infinite += ((x == 0) & (y != 0)).to(tl.int32)
                zero_infinite += (unequal & ~(nan_x | nan_y)).to(tl.int32) << 16
                nan_nan += nan_x.to(tl.int32) + (nan_y.to(tl.int32) << 16)
                nan_both += both.to(tl.int32)
                ulp = tl.where(nan_x | nan_y, 0, apart(bits_r, bits_c, 0x7FFF if NARROW else 0x7FFFFFFF))
                farthest = tl.maximum(farthest, ulp)
                steps += counted(ulp)
            steps0 += steps & 0x000F000F000F000F
            steps1 += (steps >> 4) & 0x000F000F000F000F
            steps2 += (steps >> 8) & 0x000F000F000F000F
            steps3 += (steps >> 12) & 0x000F000F000F000F
        _add_float(rows, 0, whole, sum_abs)
        _add_float(rows, 1, whole, sum_d)
        _add_float(rows, 2, whole, sum_dd)
        _add_float(rows, 3, whole, sum_rr)
        _add_float(rows, 4, whole, sum_cc)
        _add_float(rows, 5, whole, sum_rc)
        _add_two(rows, FINITE, DIFFERENT, whole, finite_different)
        _add_two(rows, MISMATCHED, FLIPS, whole, over_flips)
        _add_two(rows, OVER_ZERO, INF_MISMATCH, whole, zero_infinite)
        _add_two(rows, NAN_REFERENCE, NAN_CANDIDATE, whole, nan_nan)
        _add(rows, NAN_BOTH, whole, tl.sum(nan_both, axis=0))
        for k in tl.static_range(4):
            _add(rows, STEPS + 4 * k, whole, tl.sum((steps0 >> (16 * k)) & 0xFFFF, axis=0))
            _add(rows, STEPS + 4 * k + 1, whole, tl.sum((steps1 >> (16 * k)) & 0xFFFF, axis=0))
            _add(rows, STEPS + 4 * k + 2, whole, tl.sum((steps2 >> (16 * k)) & 0xFFFF, axis=0))
            _add(rows, STEPS + 4 * k + 3, whole, tl.sum((steps3 >> (16 * k)) & 0xFFFF, axis=0))
        top = tl.max(largest, axis=0)
        at_top = tl.min(tl.where(largest == top, most, NONE), axis=0)
        earlier = tl.min(first, axis=0)
        held_top = _held(rows, MAX_ABS, whole).to(tl.float64, bitcast=True)
        if whole == 0:
            held_at = _held(rows, ARGMAX, whole)
            at_top = tl.where(held_top > top, held_at, tl.where(held_top < top, at_top, tl.minimum(at_top, held_at)))
            earlier = tl.minimum(earlier, _held(rows, FIRST, whole))
        put(rows, MAX_ABS, tl.maximum(top, held_top))
        put(rows, ARGMAX, at_top)
        put(rows, FIRST, earlier)
        put(
            rows,
            MAX_REL,
            tl.maximum(tl.max(steep / base, axis=0), _held(rows, MAX_REL, whole).to(tl.float64, bitcast=True)),
        )
        put(rows, MAX_ULP, tl.maximum(tl.max(farthest, axis=0).to(tl.int64), _held(rows, MAX_ULP, whole)))
