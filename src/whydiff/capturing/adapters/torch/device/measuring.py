"""The one-pass comparison on a GPU; imported by `comparing` at the first two tensors there, never before.

The statistics and their conventions are those of `whydiff.numbers.metrics`, in float64 as there. `usual` reads both
tensors once, `every` takes what it left, and `_joined` adds up what their programs found: one row of results goes to
the host. Which elements a program reads depends on their number alone, so that sums are added in one order everywhere.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import triton
import triton.language as tl

from whydiff.capturing.adapters.torch.device.every import every
from whydiff.capturing.adapters.torch.device.pairs import ARGMAX, COLUMNS, FIRST, MAX_ABS, MAX_REL, MAX_ULP, NONE, STEPS
from whydiff.capturing.adapters.torch.device.usual import UNIT, usual
from whydiff.capturing.adapters.torch.dtypes import dtype_name
from whydiff.numbers.metrics import Statistics, merged

_PROGRAMS = 132 * 16
"""As many as an H200 runs at once."""
_LANES = 32
"""Of a program of `usual`. One warp asks what all its lanes have found without waiting for others."""
_TURNS = 8
_REGISTERS = 128
"""Of a thread: 16 warps have room on a multiprocessor, which is enough; with fewer registers some are spilled."""
_BLOCK = 256
_MOST = 60_000
"""Pairs of a lane that counters of 16 bits are enough for."""
_WORD = 8


@triton.jit
def _joined(rows, results, programs, BLOCK: tl.constexpr):
    """One column of what every program found, added up or the largest."""
    column = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    there = at < programs
    found = tl.load(rows + column * programs + at, mask=there, other=0)
    if column < MAX_ABS:
        result = tl.sum(found.to(tl.float64, bitcast=True), axis=0).to(tl.int64, bitcast=True)
    elif (
        (column == MAX_ABS) | (column == MAX_REL) | (column == MAX_ULP)
    ):  # a float that is not negative orders as its bits
        result = tl.max(found, axis=0)
    elif column == FIRST:
        result = tl.min(tl.where(there, found, NONE), axis=0)
    elif column == ARGMAX:
        tops = tl.load(rows + MAX_ABS * programs + at, mask=there, other=-1)
        result = tl.min(tl.where(tops == tl.max(tops, axis=0), found, NONE), axis=0)
    else:
        result = tl.sum(found, axis=0)
    tl.store(results + column, result)


@functools.lru_cache(maxsize=64)
def _limits(device: torch.device, rtol: float, atol: float) -> torch.Tensor:
    """Both on the device: there are few, and a copy waits for all that runs there."""
    return torch.tensor([rtol, atol], dtype=torch.float64, device=device)


def measured(reference: torch.Tensor, candidate: torch.Tensor, dtype: str, rtol: float, atol: float) -> Statistics:
    """`whydiff.numbers.metrics.measure` of two dense tensors on one device.

    Args:
        reference: float32, float16 or bfloat16, in row-major order.
        candidate: likewise, as many elements.
        dtype: the common one of both.
        rtol: tolerated part of abs(reference).
        atol: tolerated absolute difference.
    """
    size, chunk = reference.numel(), _LANES * UNIT.value * _TURNS
    aligned = reference.data_ptr() % _WORD == 0 and candidate.data_ptr() % _WORD == 0
    chunks = size // chunk
    programs = min(max(_PROGRAMS, triton.cdiv(size, _LANES * _MOST)), chunks + 1)
    narrow = dtype in ("float16", "bfloat16")
    with torch.inference_mode(False), torch.cuda.device_of(reference):
        limits = _limits(reference.device, rtol, atol)
        rows = torch.empty(COLUMNS * (programs + 1), dtype=torch.int64, device=reference.device)
        left = torch.empty(programs * (1 + triton.cdiv(chunks, programs)), dtype=torch.int32, device=reference.device)
        if aligned and chunks:
            usual[(programs,)](
                reference,
                candidate,
                limits,
                rows,
                left,
                chunks,
                OURS=dtype_name(reference.dtype),
                THEIRS=dtype_name(candidate.dtype),
                TOLERANT=bool(rtol or atol),
                LANES=_LANES,
                TURNS=_TURNS,
                num_warps=_LANES // 32,
                enable_fp_fusion=False,
                **({} if torch.version.hip else {"maxnreg": _REGISTERS}),
            )
        every[(programs,)](
            reference,
            candidate,
            limits,
            rows,
            left,
            size,
            chunks,
            int(not (aligned and chunks)),
            NARROW=narrow,
            CHUNK=chunk,
            BLOCK=_BLOCK,
            num_warps=_BLOCK // 32,
            enable_fp_fusion=False,
        )
        results = rows[COLUMNS * programs :]
        _joined[(COLUMNS,)](rows, results, programs, BLOCK=triton.next_power_of_2(programs))
        found = results.cpu().numpy()
    ends = found[FIRST.value : ARGMAX.value + 1]
    ends[ends == NONE.value] = -1
    steps = np.cumsum(found[: STEPS.value - 1 : -1])[::-1]  # at least as far, of those that are just as far
    sums = found[: MAX_REL.value + 1].view(np.float64)
    counts = np.concatenate([[size], found[MAX_REL.value + 1 : ARGMAX.value + 1]])
    return merged(dtype, sums[None], counts[None], steps[None], found[MAX_ULP.value : MAX_ULP.value + 1])
