"""Round up with the probability of the part that is cut off.

Values that the narrower dtype holds stay as they are: noise is added to the bits that are cut off.
Source: Parker, *Monte Carlo Arithmetic*, UCLA CSD-970002, 1997 (random rounding).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

_SMALL = 1 << 16
"""Of so many numbers at most all noise of a call is drawn at once, and all replays' results are rounded at once."""


class Wide(NamedTuple):
    """Real numbers that are to be rounded in place.

    Attributes:
        parts: the numbers.
        narrow: the dtype to round to.
        read: whether anybody reads them later; if not, they draw their noise and stay.
    """

    parts: torch.Tensor
    narrow: torch.dtype
    read: bool


def round_together(
    team: Sequence[Sequence[Wide]], generators: Sequence[Callable[[torch.device], torch.Generator]]
) -> None:
    """Round what one call gave in several replays, each with its own noise: as if each were rounded alone.

    Args:
        team: of each replay, what the call gave.
        generators: of each replay, what it draws from on a device.
    """
    together: dict[object, list[int]] = {}
    for number, found in enumerate(team):
        together.setdefault(_form(found), []).append(number)
    for form, members in together.items():
        if form is not None:
            _at_once([team[number] for number in members], [generators[number] for number in members])
            continue
        for number in members:
            for wide in team[number]:
                noise = _noise(wide.parts.shape, wide, generators[number])
                if wide.read:
                    wide.parts.copy_(_rounded(wide.parts, wide.narrow, noise))


def _form(found: Sequence[Wide]) -> object:
    """What results have in common that are rounded at once; None: these are rounded one by one."""
    kinds = {(wide.parts.dtype, wide.narrow, wide.parts.device) for wide in found}
    if len(kinds) != 1 or sum(wide.parts.numel() for wide in found) > _SMALL:
        return None
    return kinds.pop(), tuple((wide.parts.shape, wide.read) for wide in found)


def _at_once(team: Sequence[Sequence[Wide]], generators: Sequence[Callable[[torch.device], torch.Generator]]) -> None:
    first = team[0]
    size = sum(wide.parts.numel() for wide in first)
    noise = torch.stack([_noise((size,), first[0], generator) for generator in generators])
    start = 0
    for place, wide in enumerate(first):
        shape, stop = wide.parts.shape, start + wide.parts.numel()
        if wide.read:
            parts = [found[place].parts for found in team]
            drawn = noise[:, start:stop].reshape(len(team), *shape)
            for part, moved in zip(parts, _rounded(torch.stack(parts), wide.narrow, drawn), strict=True):
                part.copy_(moved)
        start = stop


def _noise(shape: Sequence[int], wide: Wide, generator: Callable[[torch.device], torch.Generator]) -> torch.Tensor:
    """Random integers in as many bits as the narrower dtype cuts off."""
    device = wide.parts.device
    integer, cut, _ = _bits_cut_off(wide.narrow, wide.parts.dtype)
    return torch.randint(1 << cut, tuple(shape), dtype=integer, device=device, generator=generator(device))


def _rounded(parts: torch.Tensor, narrow: torch.dtype, noise: torch.Tensor) -> torch.Tensor:
    """Real numbers, rounded to a narrower dtype by noise, which is used up; infinities and NaN stay what they are.

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
