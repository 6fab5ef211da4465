"""A small bfloat16 transformer and the pairs of the table in ``docs/explanation/verdict-engine.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn


class Attention(nn.Module):
    """Self-attention with rotary positions, each step written out."""

    def __init__(self, width: int, heads: int, scale: float | None = None, reordered: bool = False) -> None:
        super().__init__()
        self.heads, self.scale, self.reordered = heads, scale or 1 / math.sqrt(width // heads), reordered
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        size = width // heads
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, size, 2).float() / size), persistent=False)

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        angle = torch.arange(x.size(-2)).float()[:, None] * self.inv_freq.float()  # type: ignore[operator]
        cos, sin = (torch.cat((f, f), -1).to(x.dtype) for f in (angle.cos(), angle.sin()))
        a, b = x.chunk(2, -1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        q, k = self.rotate(q), self.rotate(k)
        if self.reordered:  # keys and values in another order: the same sums
            order = torch.arange(k.size(2)).flip(0)
            k, v = k[:, :, order], v[:, :, order]
        p = ((q @ k.transpose(-1, -2)) * self.scale).softmax(-1)
        return self.out((p @ v).transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, width: int, eps: float = 1e-5, approximate: str = "none", **attention: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = Attention(width, 4, **attention)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.act = nn.GELU(approximate=approximate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Model(nn.Module):
    def __init__(self, width: int, **block: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, **block) for _ in range(2))
        self.head = nn.Linear(width, 128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


def model(width: int = 64, **block: Any) -> Model:
    """In bfloat16 with the rotary table in float32; the same weights every time."""
    torch.manual_seed(0)
    made = Model(width, **block)
    tables = [b.attention.inv_freq.clone() for b in made.blocks]  # type: ignore[union-attr,operator]
    made = made.bfloat16().eval()
    for b, table in zip(made.blocks, tables, strict=True):
        b.attention.inv_freq = table  # type: ignore[union-attr]
    return made


class Row(NamedTuple):
    """One row of the table."""

    name: str
    reference: Callable[..., Any]
    candidate: Callable[..., Any]
    x: torch.Tensor
    verdict: str
    """The right one; ``rounding`` may come out as ``identical`` where the kernels here do not differ."""


def rows() -> Iterator[Row]:
    """The six rows."""
    torch.manual_seed(1)
    x, base, wide = torch.randn(4, 16, 64).bfloat16(), model(), model(256)
    many = torch.randn(32, 4, 256).bfloat16()
    head = 64 // 4
    yield Row("batch 1 against 32", lambda x: wide(x[:1]), lambda x: wide(x)[:1], many, "rounding")
    yield Row("attention reordered", base, model(reordered=True), x, "rounding")
    yield Row("rotary inv_freq in bfloat16", base, model().to(torch.bfloat16), x, "precision")
    yield Row("GELU tanh against erf", base, model(approximate="tanh"), x, "semantic")
    yield Row("layer norm eps 1e-4 against 1e-5", base, model(eps=1e-4), x, "semantic")
    yield Row("attention scale 1/sqrt(d+1)", base, model(scale=1 / math.sqrt(head + 1)), x, "semantic")
