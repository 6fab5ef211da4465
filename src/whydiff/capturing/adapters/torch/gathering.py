"""FSDP's own operators, executed again without its code: they only copy, and the trace may come from anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch


def _copy_in(inputs: Sequence[torch.Tensor], output: torch.Tensor, sizes: Any, count: int, rank: int) -> None:
    output.narrow(0, count * rank, count).copy_(torch.cat([given.reshape(-1) for given in inputs]))


def _copy_out(gathered: torch.Tensor, sizes: Sequence[int], dim: int = 0, *, out: Sequence[torch.Tensor]) -> None:
    for target, piece in zip(out, gathered.split_with_sizes(list(sizes), dim), strict=True):
        target.copy_(piece.reshape(target.shape))


def _chunks(tensors: Sequence[torch.Tensor], dim: int, count: int, *, out: torch.Tensor) -> None:
    out.copy_(torch._chunk_cat(list(tensors), dim, count).reshape(out.shape))


def _copy(tensor: torch.Tensor, data: torch.Tensor) -> None:
    tensor.copy_(data)


COPYING: Mapping[str, Callable[..., None]] = {
    "fsdp.all_gather_copy_in.default": _copy_in,
    "fsdp.split_with_sizes_copy.default": _copy_out,
    "fsdp.chunk_cat.default": _chunks,
    "fsdp.copy_.default": _copy,
}
"""Target → what it does: it writes to memory that it is given, and nowhere else."""
