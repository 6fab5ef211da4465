"""The one-pass comparison on a GPU, in Triton; imported by `comparing` at the first two tensors there, never before.

The statistics and their conventions are those of `whydiff.numbers.metrics`, in float64 as there. A program reads a
stretch of both tensors once; which elements it reads depends on their number alone, so that sums are added in one order
everywhere. What is counted is kept four counters to a word while elements are read, a byte for each, and taken out
before a byte can be full.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from whydiff.numbers.metrics import Statistics, merged

_PROGRAMS = 2048
_BLOCK = 256
_WARPS = 4
_TURNS = tl.constexpr(255)
"""Elements of one lane between two looks at its counters."""
_FLAGS = 8
"""Kinds of pairs that are counted, besides those that are NaN on both sides."""


@triton.jit
def _bits(value):
    """Of a float32 that a value is widened to exactly; NaN keep theirs, which the machine's conversion does not."""
    wide = value.to(tl.float32).to(tl.int32, bitcast=True)
    if value.dtype == tl.float16:
        own = value.to(tl.int16, bitcast=True).to(tl.int32)
        wide = tl.where((own & 0x7FFF) > 0x7C00, ((own & 0x8000) << 16) | 0x7F800000 | ((own & 0x3FF) << 13), wide)
    return wide


@triton.jit
def _taken_out(counters):
    """What four counters of every lane add up to."""
    shifts = 8 * tl.arange(0, 4)
    return tl.sum((counters[:, None] >> shifts[None, :]) & 255, axis=0).to(tl.int64)


@triton.jit(do_not_specialize=["size", "turns"])
def _measured(reference, candidate, limits, numbers, counts, size, turns, NARROW: tl.constexpr, BLOCK: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    rtol = tl.load(limits)
    atol = tl.load(limits + 1)
    lane = tl.arange(0, BLOCK)
    begin = program * turns * BLOCK
    sum_abs = tl.zeros((BLOCK,), tl.float64)
    sum_d = tl.zeros((BLOCK,), tl.float64)
    sum_dd = tl.zeros((BLOCK,), tl.float64)
    sum_rr = tl.zeros((BLOCK,), tl.float64)
    sum_cc = tl.zeros((BLOCK,), tl.float64)
    sum_rc = tl.zeros((BLOCK,), tl.float64)
    largest = tl.zeros((BLOCK,), tl.float64)
    steep = tl.zeros((BLOCK,), tl.float64)  # the steepest pair's distance, and the extent that it is divided by
    base = tl.full((BLOCK,), 1.0, tl.float64)
    farthest = tl.zeros((BLOCK,), tl.int32 if NARROW else tl.int64)
    first = tl.full((BLOCK,), -1, tl.int32)  # turns
    most = tl.full((BLOCK,), -1, tl.int32)
    column = tl.arange(0, 4)
    counted = tl.zeros((4,), tl.int64)
    seldom = tl.zeros((4,), tl.int64)
    twice = tl.zeros((4,), tl.int64)
    steps0 = tl.zeros((4,), tl.int64)
    steps1 = tl.zeros((4,), tl.int64)
    steps2 = tl.zeros((4,), tl.int64)
    steps3 = tl.zeros((4,), tl.int64)
    for outer in range(0, turns, _TURNS):
        usual = tl.zeros((BLOCK,), tl.int32)
        odd = tl.zeros((BLOCK,), tl.int32)
        odder = tl.zeros((BLOCK,), tl.int32)
        power0 = tl.zeros((BLOCK,), tl.int32)
        power1 = tl.zeros((BLOCK,), tl.int32)
        power2 = tl.zeros((BLOCK,), tl.int32)
        power3 = tl.zeros((BLOCK,), tl.int32)
        for turn in range(outer, min(outer + _TURNS, turns)):
            at = begin + turn * BLOCK + lane
            there = at < size
            r = tl.load(reference + at, mask=there, other=0.0)
            c = tl.load(candidate + at, mask=there, other=0.0)
            if NARROW:  # both of one dtype of 16 bits
                bits_r = r.to(tl.int16, bitcast=True).to(tl.int32)
                bits_c = c.to(tl.int16, bitcast=True).to(tl.int32)
                key_r = tl.where(bits_r < 0, -32768 - bits_r, bits_r)
                key_c = tl.where(bits_c < 0, -32768 - bits_c, bits_c)
            else:
                bits_r = _bits(r)
                bits_c = _bits(c)
                key_r = tl.where(bits_r < 0, -2147483648 - bits_r.to(tl.int64), bits_r.to(tl.int64))
                key_c = tl.where(bits_c < 0, -2147483648 - bits_c.to(tl.int64), bits_c.to(tl.int64))
            narrow_x = r.to(tl.float32)
            narrow_y = c.to(tl.float32)
            nan_x = narrow_x != narrow_x
            nan_y = narrow_y != narrow_y
            both = nan_x & nan_y
            finite = (tl.abs(narrow_x) < float("inf")) & (tl.abs(narrow_y) < float("inf"))
            alike = narrow_x == narrow_y
            flips = ((narrow_x < 0) & (narrow_y > 0)) | ((narrow_x > 0) & (narrow_y < 0))
            unequal = (~finite) & (~(alike | both))
            x = tl.where(finite, narrow_x, 0.0).to(tl.float64)
            y = tl.where(finite, narrow_y, 0.0).to(tl.float64)
            ulp = tl.where(nan_x | nan_y, 0, tl.abs(key_r - key_c))
            d = y - x
            distance = tl.abs(d)
            extent = tl.abs(x)
            beyond = (distance > atol + rtol * extent) | unequal
            sum_abs += distance
            sum_d += d
            sum_dd += d * d
            sum_rr += x * x
            sum_cc += y * y
            sum_rc += x * y
            steeper = (extent > 0) & (distance * base > steep * extent)
            steep = tl.where(steeper, distance, steep)
            base = tl.where(steeper, extent, base)
            farthest = tl.maximum(farthest, ulp)
            most = tl.where(distance > largest, turn, most)
            largest = tl.maximum(largest, distance)
            first = tl.where((first < 0) & beyond, turn, first)
            usual += (finite & there).to(tl.int32)
            usual += (bits_r != bits_c).to(tl.int32) << 8
            usual += beyond.to(tl.int32) << 16
            usual += flips.to(tl.int32) << 24
            odd += ((x == 0) & (y != 0)).to(tl.int32)
            odd += (unequal & ~(nan_x | nan_y)).to(tl.int32) << 8
            odd += nan_x.to(tl.int32) << 16
            odd += nan_y.to(tl.int32) << 24
            odder += both.to(tl.int32)
            # of the distance, in bits: the exponent of a float that holds it exactly
            if NARROW:
                length = (ulp.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 126
            else:
                length = ((ulp.to(tl.float64).to(tl.int64, bitcast=True) >> 52) - 1022).to(tl.int32)
            place = tl.where(ulp > 0, (length - 1) // 2, -1)
            one = 1 << (8 * (place & 3))
            power0 += tl.where((place >= 0) & (place < 4), one, 0)
            power1 += tl.where((place >= 4) & (place < 8), one, 0)
            if not NARROW:
                power2 += tl.where((place >= 8) & (place < 12), one, 0)
                power3 += tl.where(place >= 12, one, 0)
        counted += _taken_out(usual)
        seldom += _taken_out(odd)
        twice += _taken_out(odder)
        steps0 += _taken_out(power0)
        steps1 += _taken_out(power1)
        if not NARROW:
            steps2 += _taken_out(power2)
            steps3 += _taken_out(power3)
    far = 0x7FFFFFFFFFFFFFFF
    top = tl.max(largest, axis=0)
    at_most = tl.where((largest == top) & (most >= 0), begin + most.to(tl.int64) * BLOCK + lane, far)
    at_first = tl.where(first >= 0, begin + first.to(tl.int64) * BLOCK + lane, far)
    row = numbers + program * 8
    tl.store(row, tl.sum(sum_abs, axis=0))
    tl.store(row + 1, tl.sum(sum_d, axis=0))
    tl.store(row + 2, tl.sum(sum_dd, axis=0))
    tl.store(row + 3, tl.sum(sum_rr, axis=0))
    tl.store(row + 4, tl.sum(sum_cc, axis=0))
    tl.store(row + 5, tl.sum(sum_rc, axis=0))
    tl.store(row + 6, top)
    tl.store(row + 7, tl.max(steep / base, axis=0))
    cell = counts + program * 32
    tl.store(cell + column, counted)
    tl.store(cell + 4 + column, seldom)
    tl.store(cell + 8 + column, twice)
    tl.store(cell + 12, tl.min(at_first, axis=0))
    tl.store(cell + 13, tl.min(at_most, axis=0))
    tl.store(cell + 14, tl.max(farthest, axis=0).to(tl.int64))
    tl.store(cell + 16 + column, steps0)
    tl.store(cell + 20 + column, steps1)
    tl.store(cell + 24 + column, steps2)
    tl.store(cell + 28 + column, steps3)


def measured(reference: torch.Tensor, candidate: torch.Tensor, dtype: str, rtol: float, atol: float) -> Statistics:
    """`whydiff.numbers.metrics.measure` of two dense tensors on one device.

    Args:
        reference: float32, float16 or bfloat16, in row-major order.
        candidate: likewise, as many elements.
        dtype: the common one of both.
        rtol: tolerated part of abs(reference).
        atol: tolerated absolute difference.
    """
    size = reference.numel()
    turns = max(1, triton.cdiv(size, _PROGRAMS * _BLOCK))
    programs = max(1, triton.cdiv(size, turns * _BLOCK))
    with torch.inference_mode(False), torch.cuda.device_of(reference):
        numbers = torch.empty(programs, 8, dtype=torch.float64, device=reference.device)
        counts = torch.empty(programs, 32, dtype=torch.int64, device=reference.device)
        _measured[(programs,)](
            reference,
            candidate,
            torch.tensor([rtol, atol], dtype=torch.float64, device=reference.device),
            numbers,
            counts,
            size,
            turns,
            NARROW=dtype in ("float16", "bfloat16"),
            BLOCK=_BLOCK,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )
        sums, whole = numbers.cpu().numpy(), counts.cpu().numpy()
    ends = whole[:, 12:14]
    ends[ends == np.iinfo(np.int64).max] = -1
    steps = np.cumsum(whole[:, :15:-1], axis=1)[:, ::-1]  # at least as far, of those that are just as far
    elements = np.minimum(size - np.arange(programs) * turns * _BLOCK, turns * _BLOCK)
    return merged(dtype, sums, np.column_stack([elements, whole[:, : _FLAGS + 1], ends]), steps, whole[:, 14])
