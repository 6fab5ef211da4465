"""Round up with the probability of the part that is cut off.

Source: Parker, *Monte Carlo Arithmetic*, UCLA CSD-970002, 1997 (random rounding).
"""

from __future__ import annotations

import functools
import math

import torch


def noise_for(parts: torch.Tensor, narrow: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Random integers in as many bits as a narrower dtype cuts off."""
    integer, cut, _ = _bits_cut_off(narrow, parts.dtype)
    return torch.randint(1 << cut, parts.shape, dtype=integer, device=parts.device, generator=generator)


def rounded(parts: torch.Tensor, narrow: torch.dtype, noise: torch.Tensor) -> torch.Tensor:
    """Real numbers, rounded to a narrower dtype by `noise_for`, which is used up; infinities and NaN stay what they are.

    They are given in a dtype that holds them, perhaps the narrower one.
    """
    integer, cut, same_range = _bits_cut_off(narrow, parts.dtype)
    noise.add_(parts.contiguous().view(integer)).bitwise_and_(-(1 << cut))
    moved = torch.where(parts.isnan(), parts, noise.view(parts.dtype))
    return moved if same_range else moved.to(narrow)


@functools.cache
def _bits_cut_off(narrow: torch.dtype, wide: torch.dtype) -> tuple[torch.dtype, int, bool]:
    """Integers as wide as a dtype, how many bits a narrower one lacks, and whether both have the same range."""
    ours, theirs = torch.finfo(narrow), torch.finfo(wide)
    integer = torch.int32 if wide is torch.float32 else torch.int64
    return integer, round(math.log2(ours.eps / theirs.eps)), ours.max > theirs.max / 2
