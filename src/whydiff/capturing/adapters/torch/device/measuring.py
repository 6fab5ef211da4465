"""The one-pass comparison on a GPU, in Triton; imported by `comparing` at the first two tensors there, never before.

The statistics and their conventions are those of `whydiff.numbers.metrics`, in float64 as there. A program reads a
stretch of both tensors once; which elements it reads depends on their number alone, so that sums are added in one order
everywhere. What is counted is kept eight counters to a word while elements are read, a byte for each, and taken out
before a byte can be full.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl

from whydiff.numbers.metrics import Statistics, merged

_PROGRAMS = 1024
_BLOCK = 512
_WARPS = 4
_TURNS = tl.constexpr(255)
"""Elements of one lane between two looks at its counters."""
_FLAGS = 8


@triton.jit
def _measured(
    reference,
    candidate,
    limits,
    numbers,
    counts,
    size,
    turns,
    NARROW: tl.constexpr,
    POWERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
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
    steepest = tl.zeros((BLOCK,), tl.float64)
    farthest = tl.zeros((BLOCK,), tl.int64)
    first = tl.full((BLOCK,), -1, tl.int64)
    most = tl.full((BLOCK,), -1, tl.int64)
    column = tl.arange(0, 8)
    flagged = tl.zeros((8,), tl.int64)
    special = tl.zeros((8,), tl.int64)
    low_powers = tl.zeros((8,), tl.int64)
    high_powers = tl.zeros((8,), tl.int64)
    ones = tl.full((BLOCK,), 0x0101010101010101, tl.uint64)
    for outer in range(0, turns, _TURNS):
        flags = tl.zeros((BLOCK,), tl.uint64)
        odd = tl.zeros((BLOCK,), tl.uint64)
        low = tl.zeros((BLOCK,), tl.uint64)
        high = tl.zeros((BLOCK,), tl.uint64)
        for turn in range(outer, min(outer + _TURNS, turns)):
            at = begin + turn * BLOCK + lane
            there = at < size
            r = tl.load(reference + at, mask=there, other=0.0)
            c = tl.load(candidate + at, mask=there, other=0.0)
            if NARROW:  # both of one dtype of 16 bits
                bits_r = r.to(tl.int16, bitcast=True).to(tl.int32)
                bits_c = c.to(tl.int16, bitcast=True).to(tl.int32)
                key_r = tl.where(bits_r < 0, -32768 - bits_r, bits_r).to(tl.int64)
                key_c = tl.where(bits_c < 0, -32768 - bits_c, bits_c).to(tl.int64)
                different = bits_r != bits_c
            else:
                wide_r = r.to(tl.float32).to(tl.int32, bitcast=True)
                wide_c = c.to(tl.float32).to(tl.int32, bitcast=True)
                key_r = tl.where(wide_r < 0, -2147483648 - wide_r.to(tl.int64), wide_r.to(tl.int64))
                key_c = tl.where(wide_c < 0, -2147483648 - wide_c.to(tl.int64), wide_c.to(tl.int64))
                different = wide_r != wide_c
            x = r.to(tl.float32).to(tl.float64)
            y = c.to(tl.float32).to(tl.float64)
            nan_x = x != x
            nan_y = y != y
            both = nan_x & nan_y
            finite = (tl.abs(x) < float("inf")) & (tl.abs(y) < float("inf"))
            infinite = (~finite) & (~nan_x) & (~nan_y) & (x != y)
            unequal = (~finite) & (~((x == y) | both))
            flips = ((x < 0) & (y > 0)) | ((x > 0) & (y < 0))
            x = tl.where(finite, x, 0.0)
            y = tl.where(finite, y, 0.0)
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
            steepest = tl.maximum(steepest, tl.where(extent > 0, distance / tl.where(extent > 0, extent, 1.0), 0.0))
            farthest = tl.maximum(farthest, ulp)
            most = tl.where(distance > largest, at, most)
            largest = tl.maximum(largest, distance)
            first = tl.where((first < 0) & beyond, at, first)
            flags += (finite & there).to(tl.uint64)
            flags += different.to(tl.uint64) << 8
            flags += beyond.to(tl.uint64) << 16
            flags += flips.to(tl.uint64) << 24
            flags += ((x == 0) & (y != 0)).to(tl.uint64) << 32
            flags += infinite.to(tl.uint64) << 40
            flags += nan_x.to(tl.uint64) << 48
            flags += nan_y.to(tl.uint64) << 56
            odd += both.to(tl.uint64)
            length = (ulp.to(tl.float64).to(tl.int64, bitcast=True) >> 52) - 1022  # of the distance, in bits
            powers = tl.where(ulp > 0, (length + 1) // 2, 0)
            below = tl.minimum(powers, 8)
            low += tl.where(below > 0, ones >> (64 - 8 * tl.maximum(below, 1)).to(tl.uint64), 0)
            if POWERS > 8:
                above = powers - below
                high += tl.where(above > 0, ones >> (64 - 8 * tl.maximum(above, 1)).to(tl.uint64), 0)
        shifts = (8 * column).to(tl.uint64)[None, :]
        flagged += tl.sum(((flags[:, None] >> shifts) & 255).to(tl.int64), axis=0)
        special += tl.sum(((odd[:, None] >> shifts) & 255).to(tl.int64), axis=0)
        low_powers += tl.sum(((low[:, None] >> shifts) & 255).to(tl.int64), axis=0)
        if POWERS > 8:
            high_powers += tl.sum(((high[:, None] >> shifts) & 255).to(tl.int64), axis=0)
    far = 0x7FFFFFFFFFFFFFFF
    top = tl.max(largest, axis=0)
    at_top = tl.min(tl.where((largest == top) & (most >= 0), most, far), axis=0)
    at_first = tl.min(tl.where(first >= 0, first, far), axis=0)
    row = numbers + program * 8
    tl.store(row, tl.sum(sum_abs, axis=0))
    tl.store(row + 1, tl.sum(sum_d, axis=0))
    tl.store(row + 2, tl.sum(sum_dd, axis=0))
    tl.store(row + 3, tl.sum(sum_rr, axis=0))
    tl.store(row + 4, tl.sum(sum_cc, axis=0))
    tl.store(row + 5, tl.sum(sum_rc, axis=0))
    tl.store(row + 6, top)
    tl.store(row + 7, tl.max(steepest, axis=0))
    place = counts + program * 32
    tl.store(place + column, flagged)
    tl.store(place + 8 + column, special)
    tl.store(place + 16 + column, low_powers)
    tl.store(place + 24 + column, high_powers)
    tl.store(place + 13, at_first)
    tl.store(place + 14, at_top)
    tl.store(place + 15, tl.max(farthest, axis=0))


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
            POWERS=8 if dtype in ("float16", "bfloat16") else 16,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
            enable_fp_fusion=False,
        )
        sums, whole = numbers.cpu().numpy(), counts.cpu().numpy()
    ends = whole[:, 13:15]
    ends[ends == np.iinfo(np.int64).max] = -1
    elements = np.minimum(size - np.arange(programs) * turns * _BLOCK, turns * _BLOCK)
    return merged(dtype, sums, np.column_stack([elements, whole[:, : _FLAGS + 1], ends]), whole[:, 16:], whole[:, 15])
