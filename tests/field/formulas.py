"""Programs after public reports in which two formulas of one computation meet, each with neighbours of its kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------- a GRU's bias inside or outside of the reset gate


class Gru(nn.Module):
    """The bias of the new gate's recurrent half: inside the reset gate (as torch.nn.GRU), or outside."""

    def __init__(self, outside: bool = False) -> None:
        super().__init__()
        self.w_ih, self.w_hh = nn.Parameter(seeded(48, 12) * 0.3), nn.Parameter(seeded(48, 16, seed=1) * 0.3)
        self.b_ih, self.b_hh = nn.Parameter(seeded(48, seed=2) * 0.5), nn.Parameter(seeded(48, seed=3) * 0.5)
        self.outside = outside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, outs = x.new_zeros(x.shape[0], 16), []
        for t in range(x.shape[1]):
            ir, iz, ic = (x[:, t] @ self.w_ih.T + self.b_ih).chunk(3, -1)
            if self.outside:
                hr, hz, hc = (h @ self.w_hh.T).chunk(3, -1)
                br, bz, bc = self.b_hh.chunk(3, -1)
                r, z = torch.sigmoid(ir + hr + br), torch.sigmoid(iz + hz + bz)
                c = torch.tanh(ic + r * hc + bc)
            else:
                hr, hz, hc = (h @ self.w_hh.T + self.b_hh).chunk(3, -1)
                r, z = torch.sigmoid(ir + hr), torch.sigmoid(iz + hz)
                c = torch.tanh(ic + r * hc)
            h = (1 - z) * c + z * h
            outs.append(h)
        return torch.stack(outs, 1)


def fused(own: Gru) -> nn.GRU:
    gru = nn.GRU(12, 16, batch_first=True)
    with torch.no_grad():
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            whole = name.replace("w_", "weight_").replace("b_", "bias_") + "_l0"
            getattr(gru, whole).copy_(getattr(own, name))
    return gru.eval()


class Tagger(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.out = gru, nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.gru(x)
        return self.out(found[0] if isinstance(found, tuple) else found)


STEPS = seeded(2, 4, 12, seed=4)
RIGHT, WRONG, FUSED = Tagger(Gru()).eval(), Tagger(Gru(outside=True)).eval(), Tagger(fused(Gru())).eval()


def gru_fused() -> torch.Tensor:
    return FUSED(STEPS).detach()


def gru_right() -> torch.Tensor:
    return RIGHT(STEPS).detach()


def gru_wrong() -> torch.Tensor:
    return WRONG(STEPS).detach()


# ------------------------------------------------------- what a hook takes: the contribution, or the residual too


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        return residual + self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln, self.mlp = nn.LayerNorm(16), Mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.ln(x), x)


torch.manual_seed(0)
NET = nn.Sequential(nn.Embedding(20, 16), Block(), Block()).eval()
IDS = torch.arange(10)[None] * 3 % 20


def grabbed(take: Callable[[nn.Module], nn.Module]) -> torch.Tensor:
    """What a hook on a part of the last block sees."""
    box: list[torch.Tensor] = []
    handle = take(NET[2]).register_forward_hook(lambda module, given, output: box.append(output))
    with torch.no_grad():
        NET(IDS)
    handle.remove()
    return box[0]


def contribution() -> torch.Tensor:
    return grabbed(lambda block: block.mlp.down)


def with_residual() -> torch.Tensor:
    return grabbed(lambda block: block.mlp)


def stream_after(block: int) -> torch.Tensor:
    """The last token's hidden state after a block, by an index that counts the embedding or does not."""
    states: list[torch.Tensor] = []
    handles = [part.register_forward_hook(lambda m, given, output: states.append(output)) for part in NET]
    with torch.no_grad():
        NET(IDS)
    for handle in handles:
        handle.remove()
    return states[block][:, -1]


def contribution_of_other_weights() -> torch.Tensor:
    weight = NET[2].mlp.down.weight
    with torch.no_grad():
        weight.mul_(2)
        try:
            return contribution()
        finally:
            weight.mul_(0.5)


# ------------------------------------------------------- rotary embeddings, complex or by cosine and sine


class Attention(nn.Module):
    def __init__(self, rotate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16, bias=False) for _ in range(4))
        self.rotate = rotate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        angles = torch.outer(torch.arange(n).float(), 1e4 ** (-torch.arange(0, 8, 2).float() / 8))
        q, k, v = (side(x).view(b, n, 2, 8) for side in (self.q, self.k, self.v))
        q, k = self.rotate(q, angles), self.rotate(k, angles)
        y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)), is_causal=True)
        return self.o(y.transpose(1, 2).reshape(b, n, 16))


def by_complex(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    turned = (
        torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), angles)[:, None]
    )
    return torch.view_as_real(turned).flatten(3)


def by_pairs(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    c, s, one, other = angles.cos()[:, None], angles.sin()[:, None], x[..., 0::2], x[..., 1::2]
    return torch.stack([one * c - other * s, one * s + other * c], -1).flatten(3)


def by_halves(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    (c, s), (one, other) = (angles.cos()[:, None], angles.sin()[:, None]), x.chunk(2, -1)
    return torch.cat([one * c - other * s, one * s + other * c], -1)


def conjugate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """A neighbour: the rotation goes the other way."""
    turned = (
        torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.polar(torch.ones_like(angles), -angles)[:, None]
    )
    return torch.view_as_real(turned).flatten(3)


def rotary(rotate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    layer, x = Attention(rotate).eval(), seeded(1, 10, 16, seed=7)
    return lambda: layer(x).detach()


# ------------------------------------------------------- a linear layer by hand


LINEAR, X = nn.Linear(8, 8), seeded(2, 8)


def linear_old() -> torch.Tensor:
    return LINEAR(X)


def linear_new() -> torch.Tensor:
    return F.linear(X, LINEAR.weight) + LINEAR.bias


def linear_without_bias() -> torch.Tensor:
    return F.linear(X, LINEAR.weight)


# ------------------------------------------------------- label smoothing that counts what the loss ignores


TOKENS, LABELS = (torch.randint(0, 20, (4, 10), generator=torch.Generator().manual_seed(i)) for i in (1, 2))
LABELS[0, 6:] = LABELS[2, 3:] = -100


def smoothed(smooth: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None) -> Callable[[], Any]:
    def run() -> tuple[torch.Tensor, torch.Tensor | None]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 20))
        logits, labels = model(TOKENS).flatten(0, 1), LABELS.flatten()
        if smooth is None:
            loss = F.cross_entropy(logits, labels, ignore_index=-100, label_smoothing=0.1)
        else:
            log_p = F.log_softmax(logits, -1)
            loss = 0.9 * F.nll_loss(log_p, labels, ignore_index=-100) + 0.1 * smooth(log_p, labels != -100)
        loss.backward()
        return loss.detach(), model[1].weight.grad

    return run


def over_all(log_p: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return -log_p.mean(-1).mean()


def over_kept(log_p: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    return -(log_p.mean(-1) * kept).sum() / kept.sum()


# ------------------------------------------------------- an optimizer's foreach path with another recurrence


def sgd(how: str) -> Callable[[], torch.Tensor]:
    """Three steps; the decay is decoupled in a loop or by foreach ops (``right``), or coupled (``coupled``)."""

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 4))
        inputs, classes = seeded(3, 16, 12, seed=5), torch.arange(48).reshape(3, 16) % 4
        params, losses = list(model.parameters()), []
        buffers = [torch.zeros_like(p) for p in params]
        for x, y in zip(inputs, classes, strict=True):
            model.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            losses.append(loss.detach())
            grads = [p.grad for p in params]
            with torch.no_grad():
                if how == "loop":
                    for p, b, g in zip(params, buffers, grads, strict=True):
                        b.mul_(0.9).add_(g)
                        p.mul_(0.99)
                        p.add_(b, alpha=-0.1)
                    continue
                torch._foreach_mul_(buffers, 0.9)
                torch._foreach_add_(buffers, grads)
                if how == "coupled":
                    torch._foreach_add_(buffers, params, alpha=0.1)
                else:
                    torch._foreach_mul_(params, 0.99)
                torch._foreach_add_(params, buffers, alpha=-0.1)
        return torch.stack(losses)

    return run


# ------------------------------------------------------- outputs that hold no tensors, and layers that cannot be replayed


def encoded() -> np.ndarray[Any, Any]:
    with torch.no_grad():
        return torch.tanh(X @ LINEAR.weight).numpy()


def normalised() -> np.ndarray[Any, Any]:
    found = encoded()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def quantized(scale: float) -> Callable[[], torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 32), nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    with torch.no_grad():
        model[4].weight.mul_(scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    return lambda: packed(torch.arange(6)[None]).detach()


# ------------------------------------------------------- a loss scale that is used one step too late


def scaled_training(late: bool) -> Callable[[], torch.Tensor]:
    """Five steps; the scale doubles at the fourth, and the gradients are divided by the new one if ``late``."""

    def run() -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 4))
        optimizer, inputs = torch.optim.SGD(model.parameters(), lr=0.1), seeded(5, 16, 12, seed=5)
        scale, losses = 1024.0, []
        for number, x in enumerate(inputs):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), torch.arange(16) % 4)
            (loss * scale).backward()
            used, scale = scale, scale * 2 if number == 3 else scale
            for p in model.parameters():
                assert p.grad is not None
                p.grad.div_(scale if late else used)
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return run


# ------------------------------------------------------- what comes after it stays sparse and cannot be executed again

LINKS, FEATURES = seeded(12, 12).relu() + torch.eye(12), seeded(12, 6)


def graph_layer(norm: str, dtype: torch.dtype | None = None) -> Callable[[], torch.Tensor]:
    """A graph layer with a sparse output; ``dtype``: the program casts by itself."""

    def run() -> torch.Tensor:
        links, x = (LINKS, FEATURES) if dtype is None else (LINKS.to(dtype), FEATURES.to(dtype))
        degree = links.sum(1, keepdim=True)
        by = {
            "row": lambda: links / degree,
            "row, in another order": lambda: links * (1 / degree),
            "symmetric": lambda: degree.rsqrt() * links * degree.T.rsqrt(),
        }[norm]()
        return torch.sparse.mm(by.to_sparse(), torch.relu(x).to_sparse())

    return run
