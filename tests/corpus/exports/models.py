"""Models of many families, small, without dropout, in evaluation mode; each with its input."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from tests.corpus.ports.parts import seeded
from torch.nn import functional

Made = tuple[torch.nn.Module, torch.Tensor]
WIDTH = 16


class Attention(torch.nn.Module):
    def __init__(self, *, causal: bool = False, fused: bool = True) -> None:
        super().__init__()
        self.qkv, self.out = torch.nn.Linear(WIDTH, 3 * WIDTH), torch.nn.Linear(WIDTH, WIDTH)
        self.causal, self.fused = causal, fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        else:
            y = ((q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Block(torch.nn.Module):
    def __init__(self, norm: Any = torch.nn.LayerNorm, act: Any = functional.gelu, **how: Any) -> None:
        super().__init__()
        self.one, self.attention, self.two = norm(WIDTH), Attention(**how), norm(WIDTH)
        self.up, self.down, self.act = torch.nn.Linear(WIDTH, 32), torch.nn.Linear(32, WIDTH), act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.one(x))
        return x + self.down(self.act(self.up(self.two(x))))


class Scaled(torch.nn.Module):
    """An RMS norm, written out: the older exporter has none."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Rotary(torch.nn.Module):
    """A Llama block: RMS norm, rotated halves, grouped queries, SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm, self.last = (torch.nn.Embedding(29, WIDTH), Scaled(), Scaled())
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, n, bias=False) for n in (16, 8, 8, 16))
        self.gate, self.up, self.down = (
            torch.nn.Linear(WIDTH, 24, bias=False),
            torch.nn.Linear(WIDTH, 24, bias=False),
            torch.nn.Linear(24, WIDTH, bias=False),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        length, h = ids.shape[1], self.norm(x)
        angle = torch.outer(torch.arange(length).float(), 10_000.0 ** (-torch.arange(0, 4).float() / 4))
        cos, sin = (torch.cat([f(angle), f(angle)], -1) for f in (torch.cos, torch.sin))

        def turned(y: torch.Tensor) -> torch.Tensor:
            return y * cos + torch.cat([-y[..., 4:], y[..., :4]], -1) * sin

        q = turned(self.q(h).unflatten(-1, (2, 8)).transpose(1, 2))
        k, v = (layer(h).unflatten(-1, (1, 8)).transpose(1, 2).expand(-1, 2, -1, -1) for layer in (self.k, self.v))
        y = functional.scaled_dot_product_attention(q, turned(k), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).flatten(2))
        h = self.last(x)
        return (x + self.down(functional.silu(self.gate(h)) * self.up(h))) @ self.table.weight.T


class Bert(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.norm = (
            torch.nn.Embedding(29, WIDTH),
            torch.nn.Embedding(12, WIDTH),
            torch.nn.LayerNorm(WIDTH),
        )
        self.blocks, self.head = torch.nn.Sequential(Block(fused=False), Block(fused=False)), torch.nn.Linear(WIDTH, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.words(ids) + self.places(torch.arange(ids.shape[1])))
        return self.head(torch.tanh(self.blocks(x)[:, 0]))


class Patches(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cut, self.first = torch.nn.Conv2d(3, WIDTH, 4, 4), torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.block, self.norm, self.head = Block(), torch.nn.LayerNorm(WIDTH), torch.nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cut(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.first.expand(y.shape[0], -1, -1), y], 1)
        return self.head(self.norm(self.block(y))[:, 0])


class Residual(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(8)
        self.a, self.abn = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False), torch.nn.BatchNorm2d(8)
        self.b, self.head = torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(torch.relu(self.bn(self.stem(x))), 2)
        x = torch.relu(x + self.b(torch.relu(self.abn(self.a(x)))))
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Whisper(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Conv1d(10, WIDTH, 3, padding=1), torch.nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.block, self.norm = Block(), torch.nn.LayerNorm(WIDTH)
        self.register_buffer("places", torch.randn(10, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.gelu(self.b(functional.gelu(self.a(x)))).transpose(1, 2)
        return self.norm(self.block(y + self.places[: y.shape[1]]))


class Scan(torch.nn.Module):
    """A selective state-space layer, its recurrence written out."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.conv, self.delta = (
            torch.nn.Linear(WIDTH, 16),
            torch.nn.Conv1d(8, 8, 3, padding=2, groups=8),
            torch.nn.Linear(8, 8),
        )
        self.bc, self.out, self.rate = (
            torch.nn.Linear(8, 8),
            torch.nn.Linear(8, WIDTH),
            torch.nn.Parameter(torch.zeros(8, 4)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        y, gate = self.into(x).chunk(2, -1)
        y = functional.silu(self.conv(y.transpose(1, 2))[..., :length]).transpose(1, 2)
        step, (b, c) = functional.softplus(self.delta(y)), self.bc(y).chunk(2, -1)
        state, found = torch.zeros(x.shape[0], 8, 4), []
        for t in range(length):
            decay = torch.exp(step[:, t, :, None] * -torch.exp(self.rate))
            state = decay * state + (step[:, t] * y[:, t])[..., None] * b[:, t, None]
            found.append((state * c[:, t, None]).sum(-1))
        return self.out(torch.stack(found, 1) * functional.silu(gate))


class Net(torch.nn.Module):
    """Layers around a function between them."""

    def __init__(self, first: torch.nn.Module, between: Callable[[Any], Any], last: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.between, self.last = first, between, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(x)))


def _made(model: torch.nn.Module, x: torch.Tensor) -> Made:
    return seeded(model), x


def _image(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def _ids(length: int) -> torch.Tensor:
    return torch.arange(2 * length).reshape(2, length) * 7 % 29


def _unet() -> Made:
    up = torch.nn.ConvTranspose2d(8, 4, 2, stride=2)
    return _made(Net(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.relu, up), _image(2, 3, 8, 6))


def _resized(mode: str) -> Made:
    def between(x: Any) -> Any:
        return functional.interpolate(x, scale_factor=2, mode=mode)

    return _made(Net(torch.nn.Conv2d(3, 8, 3, padding=1), between, torch.nn.Conv2d(8, 4, 1)), _image(2, 3, 8, 6))


MODELS: dict[str, Callable[[], Made]] = {
    "Llama block": lambda: _made(Rotary(), _ids(6)),
    "BERT": lambda: _made(Bert(), _ids(7)),
    "GPT block": lambda: _made(Block(causal=True), _image(2, 5, WIDTH)),
    "quick GELU block": lambda: _made(Block(act=lambda x: x * torch.sigmoid(1.702 * x)), _image(2, 5, WIDTH)),
    "ViT": lambda: _made(Patches(), _image(2, 3, 8, 12)),
    "ResNet": lambda: _made(Residual(), _image(2, 3, 16, 12)),
    "Whisper encoder": lambda: _made(Whisper(), _image(2, 10, 12)),
    "GRU": lambda: _made(
        Net(torch.nn.Linear(WIDTH, 8), lambda x: x, Last(torch.nn.GRU(8, 6, batch_first=True), 6)), _image(2, 5, WIDTH)
    ),
    "LSTM": lambda: _made(
        Net(torch.nn.Linear(WIDTH, 8), lambda x: x, Last(torch.nn.LSTM(8, 6, batch_first=True), 6)), _image(2, 5, WIDTH)
    ),
    "selective scan": lambda: _made(Scan(), _image(2, 5, WIDTH)),
    "U-Net step": _unet,
    "bilinear resize": lambda: _resized("bilinear"),
    "nearest resize": lambda: _resized("nearest"),
    "bicubic resize": lambda: _resized("bicubic"),
    "group norm": lambda: _made(
        Net(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GroupNorm(4, 8), torch.nn.Conv2d(8, 4, 1)), _image(2, 3, 8, 6)
    ),
    "depthwise": lambda: _made(
        Net(torch.nn.Conv2d(3, 8, 1), functional.hardswish, torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)),
        _image(2, 3, 8, 6),
    ),
    "leaky MLP": lambda: _made(
        Net(torch.nn.Linear(WIDTH, 24), lambda x: functional.leaky_relu(x, 0.2), torch.nn.Linear(24, 5)),
        _image(4, WIDTH),
    ),
}


class Last(torch.nn.Module):
    def __init__(self, rnn: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.rnn, self.fc = rnn, torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])
