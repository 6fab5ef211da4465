"""Weights that one side stores and the other computes: pairs of callables, each named after what is wrong, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def _run(model: nn.Module, x: torch.Tensor) -> Callable[[], Any]:
    def run() -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    return run


class _Vocoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pre = weight_norm(nn.Conv1d(8, 16, 5, padding=2))
        self.up = weight_norm(nn.ConvTranspose1d(16, 8, 4, 2, 1))
        self.post = weight_norm(nn.Conv1d(8, 1, 5, padding=2))
        with torch.no_grad():
            for layer in (self.pre, self.up, self.post):
                layer.parametrizations.weight.original0.mul_(1.7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.leaky_relu(self.pre(x), 0.1)
        return torch.tanh(self.post(nn.functional.leaky_relu(self.up(hidden), 0.1)))


def _vocoders(dtype: torch.dtype, factor: float = 1.0) -> Pair:
    kept, gone = _Vocoder().eval(), _Vocoder().eval()
    for layer in (gone.pre, gone.up, gone.post):
        parametrize.remove_parametrizations(layer, "weight")
    with torch.no_grad():
        gone.up.weight.mul_(factor)
    x = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    return _run(kept.to(dtype), x), _run(gone.to(dtype), x)


def norm_removed() -> Pair:
    """Weight norm removed in float32, the model cast to bfloat16 afterwards."""
    return _vocoders(torch.bfloat16)


def norm_removed_wide() -> Pair:
    """The same in float32."""
    return _vocoders(torch.float32)


def norm_removed_scaled() -> Pair:
    """Look-alike: one of the removed norms left its weight 3 % too large."""
    return _vocoders(torch.bfloat16, 1.03)


class _Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base, self.down = nn.Linear(16, 12), nn.Linear(16, 4, bias=False)
        self.up, self.head = nn.Linear(4, 12, bias=False), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.base(x) + 2.0 * self.up(self.down(x))))


class _Merged(nn.Module):
    def __init__(self, adapted: _Adapted, factor: float) -> None:
        super().__init__()
        self.base, self.head = nn.Linear(16, 12), nn.Linear(12, 5)
        with torch.no_grad():
            product = adapted.up.weight.float() @ adapted.down.weight.float()
            self.base.weight.copy_(adapted.base.weight.float() + factor * product)
            self.base.bias.copy_(adapted.base.bias)
        self.head.load_state_dict(adapted.head.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.base(x)))


def _adapters(dtype: torch.dtype, factor: float) -> Pair:
    adapted = _Adapted().to(dtype).eval()
    merged = _Merged(adapted, factor).to(dtype).eval()
    x = torch.randn(6, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    return _run(adapted, x), _run(merged, x)


def adapter_merged() -> Pair:
    """A low-rank adapter merged in float32 and stored in bfloat16: every element is the rounding of the sum."""
    return _adapters(torch.bfloat16, 2.0)


def adapter_merged_wide() -> Pair:
    """The same in float32."""
    return _adapters(torch.float32, 2.0)


def adapter_merged_otherwise() -> Pair:
    """Look-alike: merged with another factor."""
    return _adapters(torch.bfloat16, 1.5)


def adapter_functions() -> Pair:
    """The merged adapter again, as plain functions of tensors."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((8, 16), (2, 16), (8, 2), (4, 16))
    weight, down, up, x = ((torch.randn(*shape, generator=generator) / 4).bfloat16() for shape in shapes)
    whole = (weight.float() + 2 * up.float() @ down.float()).bfloat16()
    linear = nn.functional.linear
    return (
        lambda: torch.tanh(linear(x, weight) + 2 * linear(linear(x, down), up)),
        lambda: torch.tanh(linear(x, whole)),
    )
