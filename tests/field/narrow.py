"""Values that are rounded to 16 bits somewhere: pairs of callables, each named after what is wrong, or not."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def _seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class _Diffusion(nn.Module):
    """A network that is modulated by an embedded timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 64)
        self.inputs, self.norm = nn.Linear(8, 64), nn.LayerNorm(64, elementwise_affine=False)
        self.modulation, self.out = nn.Linear(64, 128), nn.Linear(64, 8)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        rates = torch.exp(-math.log(10000) * torch.arange(16, dtype=torch.float32) / 16)
        angles = t[:, None].float() * rates[None]
        embedded = torch.cat([angles.cos(), angles.sin()], -1).to(self.first.weight.dtype)
        embedded = self.second(nn.functional.silu(self.first(embedded)))
        hidden = self.inputs(x)
        scale, shift = self.modulation(embedded)[:, None].chunk(2, -1)
        return self.out(hidden + self.norm(hidden) * (1 + scale) + shift)


def _diffusion(change: Callable[[torch.Tensor], torch.Tensor]) -> Pair:
    torch.manual_seed(0)
    net = _Diffusion().bfloat16().eval()
    x, t = torch.randn(2, 10, 8, generator=_seeded()).bfloat16(), torch.tensor([937.5, 833.25])

    def run(t: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net(x, t)

    return lambda: run(t), lambda: run(change(t))


def timestep() -> Pair:
    """The timestep is rounded to bfloat16 before it is embedded: 937.5 becomes 936."""
    return _diffusion(lambda t: t.bfloat16())


def timestep_whole() -> Pair:
    """Look-alike of `timestep`: it is cut to a whole number, which no rounding to fewer bits does."""
    return _diffusion(lambda t: t.long().float())


def timestep_wide() -> Pair:
    """Look-alike: through float64 and back, which changes nothing."""
    return _diffusion(lambda t: t.double().float())


class _Quantised(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) * 0.2
        scale = weight.abs().amax(1) / 127
        self.register_buffer("q", (weight / scale[:, None]).round().clamp(-128, 127).to(torch.int8))
        self.register_buffer("s", scale)


class _Late(_Quantised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ((x.float() @ self.q.float().T) * self.s).to(x.dtype)


class _Early(_Quantised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.q.to(x.dtype) * self.s.to(x.dtype)[:, None])


class _Larger(_Quantised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.q.to(x.dtype) * (1.02 * self.s).to(x.dtype)[:, None])


def _quantised(kind: type[_Quantised]) -> Pair:
    def network(kind: type[_Quantised]) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(kind(64, 128), nn.SiLU(), kind(128, 64)).eval()

    late, other = network(_Late), network(kind)
    x = torch.randn(4, 64, generator=_seeded()).bfloat16()
    return lambda: late(x), lambda: other(x)


def scale_order() -> Pair:
    """Weights in 8 bits: the scale is rounded to bfloat16 before the product, or applied in float32 after it."""
    return _quantised(_Early)


def scale_other() -> Pair:
    """Look-alike of `scale_order`: the scale itself is 2 % larger."""
    return _quantised(_Larger)


def _normalised(factor: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    table, layer, ids = nn.Embedding(30, 44), nn.Linear(44, 12), torch.arange(9) * 3

    def run() -> torch.Tensor:
        with torch.no_grad():
            return layer(torch.tanh(table(ids) * factor()))  # type: ignore[no-any-return]

    return run


def normaliser(made: float = 44**0.5) -> Pair:
    """An embedding's factor, made in float32 or in bfloat16; ``made``: of which number there."""
    return (
        _normalised(lambda: torch.tensor(44**0.5)),
        _normalised(lambda: torch.tensor(made, dtype=torch.bfloat16).float()),
    )


def plain_half() -> Pair:
    """A layer in float32 and the same layer in bfloat16."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 1000), torch.randn(4, 64)
    half = nn.Linear(64, 1000)
    half.load_state_dict(layer.state_dict())
    half = half.bfloat16()
    return lambda: {"logits": layer(x)}, lambda: {"logits": half(x.bfloat16())}


def distances() -> Pair:
    """Distances up to 399 pass through bfloat16, which holds whole numbers to 256."""
    slopes = 2.0 ** -torch.arange(1.0, 5.0)
    q = torch.randn(4, 4, 8, generator=_seeded())

    def bias(dtype: torch.dtype) -> torch.Tensor:
        at = torch.arange(400)
        return slopes[:, None, None] * (at[None, :] - at[:, None]).abs().to(dtype).float() + q.sum()

    return lambda: bias(torch.float32), lambda: bias(torch.bfloat16)


class _Recomputed(torch.autograd.Function):
    """A hand-written checkpoint: the forward pass is carried out again, in the region that it ran in."""

    @staticmethod
    def forward(ctx: Any, run: Any, x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.run, ctx.parameters, ctx.on = run, parameters, torch.is_autocast_enabled("cpu")
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def again(ctx: Any, gradient: torch.Tensor, on: bool) -> tuple[Any, ...]:
        x = ctx.saved_tensors[0].detach().requires_grad_()
        region: Any = torch.autocast("cpu", torch.bfloat16) if on else nullcontext()
        with torch.enable_grad(), region:
            y = ctx.run(x)
        return (None, *torch.autograd.grad(y, (x, *ctx.parameters), gradient.to(y.dtype)))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _Recomputed.again(ctx, gradient, ctx.on)


class _RecomputedOutside(_Recomputed):
    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        return _Recomputed.again(ctx, gradient, on=False)


def recomputed_outside() -> Pair:
    """The forward pass ran under autocast, and what the backward pass recomputes does not."""

    def step(function: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        head = nn.Linear(16, 3)
        x = torch.randn(8, 16, generator=_seeded(), requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = head(function.apply(net, x, *net.parameters())).float()
        loss = y.logsumexp(-1).mean()
        loss.backward()
        return {"loss": loss.detach(), "gradient": net[0].weight.grad}

    return lambda: step(_Recomputed), lambda: step(_RecomputedOutside)
