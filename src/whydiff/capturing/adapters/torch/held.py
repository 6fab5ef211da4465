"""Storages that a replay holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_of, not_comparable, plain, raw
from whydiff.errors import ReplayError
from whydiff.records import Event, Leaf

_PIECE = 1 << 24
"""Numbers that are widened at once: 128 MiB of a device's memory each."""


class Held:
    """A storage of the replay: its tensor memory, and where the recorded offsets begin in it."""

    __slots__ = ("dtype", "recorded", "shift", "storage", "whole")

    def __init__(self, tensor: torch.Tensor, recorded: str, shift: int = 0) -> None:
        self.whole = tensor
        self.storage = tensor.untyped_storage()
        self.dtype = tensor.dtype
        self.recorded = recorded
        self.shift = shift

    def look(self, event: Event) -> torch.Tensor:
        """The tensor that an event looked at, as it is now."""
        spec, whole = event.spec, self.whole
        same_type = spec.dtype == self.recorded
        if (
            same_type
            and self.shift == 0
            and spec.shape == tuple(whole.shape)
            and (spec.strides == whole.stride() and spec.offset == whole.storage_offset())
        ):
            return whole
        offset = spec.offset - self.shift
        dtype = self.dtype if same_type else dtype_of(spec.dtype)
        if not same_type and self.shift:
            ratio = dtype_of(self.recorded).itemsize / dtype.itemsize
            offset = spec.offset - int(self.shift * ratio)
        end = (offset + extent(spec.shape, spec.strides)) * dtype.itemsize
        if offset < 0 or (end > self.storage.nbytes() and spec.numel):  # torch would grow the storage
            raise ReplayError(
                "A look lies outside the storage that it looks at.",
                where=str(event.site),
                actual=f"{spec} at element {offset}",
                expected=f"within {self.storage.nbytes()} bytes",
            )
        return torch.empty(0, dtype=dtype, device=whole.device).set_(self.storage, offset, spec.shape, spec.strides)


def shared(leaves: Sequence[tuple[Leaf, torch.Tensor]]) -> Held:
    """One storage that holds several leaves, each where it was."""
    low = min(leaf.spec.offset for leaf, _ in leaves)
    high = max(leaf.spec.offset + extent(leaf.spec.shape, leaf.spec.strides) for leaf, _ in leaves)
    first, value = leaves[0]
    base = torch.zeros(high - low, dtype=value.dtype, device=value.device)
    for leaf, value in leaves:
        base.as_strided(leaf.spec.shape, leaf.spec.strides, leaf.spec.offset - low).copy_(value)
    return Held(base, first.spec.dtype, low)


def laid_out(value: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy of a tensor with given strides (so that kernels meet the layout they met).

    Contiguous where one element would stand for many that are not equal.
    """
    expanded = any(stride == 0 and size > 1 for stride, size in zip(strides, value.shape, strict=False))
    for_each = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in strides)
    if (not strides and value.dim()) or (expanded and not torch.equal(value[for_each].expand_as(value), value)):
        return value.detach().clone(memory_format=torch.contiguous_format)
    copy = torch.empty_strided(tuple(value.shape), tuple(strides), dtype=value.dtype, device=value.device)
    if expanded:
        copy = copy.zero_()
        copy[for_each].copy_(value[for_each])
        return copy
    return copy.copy_(value.detach())


def extent(shape: Sequence[int], strides: Sequence[int]) -> int:
    """Elements from the first to the last that a look covers; 0 if it is empty."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def listed(result: Any) -> list[torch.Tensor]:
    """`flat`, at once: nearly every op gives one plain tensor or a few."""
    if type(result) is tuple and all(type(item) is torch.Tensor and plain(item) for item in result):
        return list(result)
    return list(flat(result))


def flat(result: Any) -> Iterator[torch.Tensor]:
    """The tensors that an op gave, one by one."""
    if isinstance(result, torch.Tensor):
        if not not_comparable(result) or result.layout is not torch.strided:
            yield result
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from flat(item)


def mean_distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Mean of ``abs(one - other)`` in float64 over pairs of finite values; 0 without any."""
    apart = (one.to(torch.float64) - other.to(one.device, torch.float64)).abs()
    finite = apart.isfinite()
    return float(torch.where(finite, apart, 0.0).sum() / finite.sum().clamp(min=1))


def mean_and_excess(one: torch.Tensor, other: torch.Tensor, rtol: float) -> tuple[float, float]:
    """`whydiff.numbers.pieces.mean_and_excess` of two tensors of one device, in float64, piece by piece."""
    ours, theirs = (raw(tensor.detach()).contiguous() for tensor in (one, other))
    lines = [(torch.view_as_real(part) if part.is_complex() else part).reshape(-1) for part in (ours, theirs)]
    found = torch.zeros(3, dtype=torch.float64, device=one.device)  # sum, how many, the largest
    for start in range(0, lines[0].numel(), _PIECE):
        r, c = (line[start : start + _PIECE].to(torch.float64) for line in lines)
        apart, finite = (c - r).abs_(), r.isfinite() & c.isfinite()
        beyond = apart - rtol * r.abs()
        found[0] += torch.where(finite, apart, 0.0).sum()
        found[1] += finite.sum()
        found[2] = torch.maximum(found[2], torch.where(beyond.isfinite(), beyond, 0.0).amax())
    total, count, worst = found.tolist()
    return total / max(count, 1), worst
