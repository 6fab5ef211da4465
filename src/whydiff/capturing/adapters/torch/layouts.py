"""The same values with other strides or alignment."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.outputs import map_tensors
from whydiff.errors import UsageError

LAYOUTS = ("contiguous", "transposed", "channels_last", "strided", "offset")
"""``transposed``: the last two dimensions are swapped in memory; ``strided``: every second element of the last
dimension; ``offset``: contiguous, beginning one element into its memory (not aligned)."""


def laid_out(value: Any, layout: str) -> Any:
    """Every tensor in nested arguments copied into a layout of `LAYOUTS` (those too small for it: contiguous).

    Raises:
        UsageError: there is no such layout.
    """
    if layout not in LAYOUTS:
        raise UsageError("There is no such layout.", actual=layout, expected=", ".join(LAYOUTS))
    return map_tensors(value, lambda tensor: _copy(tensor, layout))


def _copy(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    shape = tuple(tensor.shape)
    strides = list(torch.empty(shape, device="meta").stride())
    offset = 0
    if layout == "transposed" and len(shape) > 1:
        strides[-1], strides[-2] = shape[-2], 1
    elif layout == "channels_last" and len(shape) == 4:
        strides = list(torch.empty(shape, device="meta").to(memory_format=torch.channels_last).stride())
    elif layout == "strided" and shape:
        strides = [2 * stride for stride in strides]
    elif layout == "offset":
        offset = 1
    extent = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) if tensor.numel() else 0
    memory = torch.empty(extent + offset, dtype=tensor.dtype, device=tensor.device)
    return memory.as_strided(shape, strides, offset).copy_(tensor)
