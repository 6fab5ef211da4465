"""The kernels of the comparison on a GPU, run by Triton's interpreter: exits 0 if they find what the host finds.

A process of its own, because whether Triton interprets is decided when it is imported.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from whydiff.capturing.adapters.torch.comparing import alike, measured
from whydiff.capturing.adapters.torch.device import measuring
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.numbers.metrics import measure

_patch = interpreter._patch_lang_tensor


def patched(tensor, *scope):
    """A scalar is an array of one number there, which newer numpy does not take for an int."""
    _patch(tensor, *scope)
    tl.core.tensor.__index__ = lambda self: self.handle.data.item()


interpreter._patch_lang_tensor = patched
measuring._PROGRAMS, measuring._LANES, measuring._TURNS, measuring._BLOCK = 2, 1024, 2, 4096
CHUNK = 1024 * 12 * 2
LIMITS = 1e-2, 1e-5
draw = np.random.default_rng(0)


def line(size, odd=()):
    """Normal numbers, some of them others."""
    values = draw.standard_normal(size).astype(np.float32)
    values[draw.integers(0, size, 5 * len(odd))] = list(odd) * 5
    return torch.from_numpy(values)


def near(values):
    """As another order of additions may leave them."""
    return values * (1 + 1e-2 * line(values.numel()))


def cases():
    """Pairs, each for a way through the kernels."""
    size = 3 * CHUNK + 5  # more than one chunk of a program, and a rest
    half, brain = torch.float16, torch.bfloat16
    ours = line(size)
    for dtype in (torch.float32, half, brain):
        yield ours.to(dtype), near(ours).to(dtype)
    codes = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    for dtype in (half, brain):
        finite = codes.view(dtype)[torch.isfinite(codes.view(dtype))]
        yield finite, finite.roll(4099)
    yield ours.to(half), near(ours)
    yield ours.relu().to(brain), near(ours).relu().to(brain)
    yield ours[1:].to(brain)[1:], near(ours)[1:].to(brain)[1:]  # at no address of whole words
    odd = line(size, odd=(0.0, -0.0, np.inf, -np.inf, np.nan, 6e4, 1e-30))
    other = torch.where(torch.rand(size) > 1e-3, near(odd), odd.roll(1))
    yield odd, other
    yield odd.to(brain), other.to(brain)


for ours, theirs in cases():
    for limits in (LIMITS, (0.0, 0.0)):
        if not alike(measured(ours, theirs, *limits), measure(to_payload(ours), to_payload(theirs), *limits)):
            sys.exit(f"{ours.dtype}, {theirs.dtype}, {ours.numel()} pairs, limits {limits}: not what the host finds")
