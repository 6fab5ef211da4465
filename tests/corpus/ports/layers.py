"""Ports of recurrent, attentive and embedding layers; answers came before the first run."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from tests.corpus.ports.parts import Mistake, Pair, Port, arrays, dense, pair, seeded, sequence, state
from torch.nn import functional

WIDTH, HEADS = 8, 2


class Recurrent(torch.nn.Module):
    def __init__(self, rnn: torch.nn.Module, width: int) -> None:
        super().__init__()
        self.rnn, self.fc = rnn, torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


def nnx_gru(
    size: str, *, order: tuple[int, ...] = (0, 1, 2), moved: bool = False, lost: bool = False, back: bool = False
) -> Pair:
    """nnx's cell has no hidden bias: it is right where PyTorch's bias of the new gate is 0."""
    width = WIDTH if size == "square" else 6
    model = seeded(Recurrent(torch.nn.GRU(WIDTH, width, batch_first=True), width))
    if not moved:
        with torch.no_grad():
            model.rnn.bias_hh_l0[2 * width :] = 0
    t = state(model)
    w, u, b, c = (t[f"rnn.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    w, u, b = (np.concatenate([np.split(x, 3)[i] for i in order]) for x in (w, u, b if lost else b + c))
    cell = nnx.GRUCell(WIDTH, width, rngs=nnx.Rngs(0))
    cell.dense_i.kernel[...], cell.dense_i.bias[...] = jnp.asarray(w.T), jnp.asarray(b)
    cell.dense_h.kernel[...] = jnp.asarray(u.T)
    fc = arrays(dense(t, "fc"))
    graph, kept = nnx.split(cell)

    def port(x: Any) -> Any:
        one = nnx.merge(graph, kept)

        def step(carry: Any, x: Any) -> Any:
            return one(carry, x)

        x = x[:, ::-1] if back else x
        y = jax.lax.scan(step, jnp.zeros((x.shape[0], width)), x.swapaxes(0, 1))[1].swapaxes(0, 1)
        y = y[:, ::-1] if back else y
        return y @ fc["kernel"] + fc["bias"]

    x = sequence(WIDTH)
    return pair(model, port, x, x)


def eqx_both_ways(size: str, *, left: bool = False, forget: float = 0.0, swapped: bool = False) -> Pair:
    """A bidirectional LSTM as two scans."""
    width = WIDTH if size == "square" else 6
    model = seeded(Recurrent(torch.nn.LSTM(WIDTH, width, batch_first=True, bidirectional=True), 2 * width))
    t = state(model)

    def cell(end: str) -> Any:
        w, u, b, c = (t[f"rnn.{name}_l0{end}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        bias = b + c
        bias[width : 2 * width] += forget
        made = eqx.nn.LSTMCell(WIDTH, width, key=jax.random.key(0))
        return eqx.tree_at(lambda m: (m.weight_ih, m.weight_hh, m.bias), made, tuple(map(jnp.asarray, (w, u, bias))))

    there, back = cell(""), cell("_reverse")
    fc = arrays(dense(t, "fc"))

    def run(made: Any, one: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            carry = made(x, carry)
            return carry, carry[0]

        return jax.lax.scan(step, (jnp.zeros(width), jnp.zeros(width)), one)[1]

    def port(x: Any) -> Any:
        one = jax.vmap(lambda one: run(there, one))(x)
        two = jax.vmap(lambda one: run(back, one[::-1]))(x)
        two = two if left else two[:, ::-1]
        y = jnp.concatenate([two, one] if swapped else [one, two], -1)
        return y @ fc["kernel"] + fc["bias"]

    x = sequence(WIDTH)
    return pair(model, port, x, x)


class Rotary(torch.nn.Module):
    """Attention with rotated halves and grouped keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o = (torch.nn.Linear(16, 16, bias=False) for _ in range(2))
        self.k, self.v = (torch.nn.Linear(16, 8, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        angle = torch.outer(torch.arange(length).float(), 10_000.0 ** (-torch.arange(0, 2).float() / 2))
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

        def turned(y: torch.Tensor) -> torch.Tensor:
            return y * cos + torch.cat([-y[..., 2:], y[..., :2]], -1) * sin

        q = turned(self.q(x).unflatten(-1, (4, 4)).transpose(1, 2))
        k, v = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.k, self.v))
        k, v = turned(k).repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).flatten(2))


def rotary(
    size: str,
    *,
    base: float = 10_000.0,
    pairs: bool = False,
    begin: int = 0,
    turn: float = 1.0,
    tiled: bool = False,
    masked: bool = True,
) -> Pair:
    model = seeded(Rotary())
    t = state(model)
    q, k, v, o = (jnp.asarray(t[f"{name}.weight"].T) for name in "qkvo")

    def port(x: Any) -> Any:
        length = x.shape[1]
        angle = jnp.outer(jnp.arange(begin, begin + length, dtype=jnp.float32), base ** (-jnp.arange(0.0, 2.0) / 2))
        cos, sin = jnp.cos(angle)[:, None], turn * jnp.sin(angle)[:, None]

        def turned(y: Any) -> Any:
            one, two = (y[..., ::2], y[..., 1::2]) if pairs else jnp.split(y, 2, -1)
            both = one * cos - two * sin, two * cos + one * sin
            return jnp.stack(both, -1).reshape(y.shape) if pairs else jnp.concatenate(both, -1)

        one = turned((x @ q).reshape(*x.shape[:2], 4, 4))
        two, three = turned((x @ k).reshape(*x.shape[:2], 2, 4)), (x @ v).reshape(*x.shape[:2], 2, 4)
        two, three = (jnp.tile(y, (1, 1, 2, 1)) if tiled else jnp.repeat(y, 2, 2) for y in (two, three))
        scores = jnp.einsum("bqhd,bkhd->bhqk", one, two) / math.sqrt(4)
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf) if masked else scores
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), three).reshape(x.shape) @ o

    x = sequence(16, 16 if size == "square" else 5)
    return pair(model, port, x, x)


class Stacked(torch.nn.Module):
    """PyTorch's own attention, which keeps queries, keys and values in one stacked weight."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention = (
            torch.nn.LayerNorm(WIDTH),
            torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(x)
        return x + self.attention(y, y, y, need_weights=False)[0]


def nnx_stacked(size: str, *, swapped: bool = False, eps: float = 1e-5, heads: int = HEADS, scale: float = 1.0) -> Pair:
    model = seeded(Stacked())
    t = state(model)
    layer = nnx.MultiHeadAttention(heads, WIDTH, decode=False, rngs=nnx.Rngs(0))
    parts = np.split(t["attention.in_proj_weight"], 3), np.split(t["attention.in_proj_bias"], 3)
    places = (layer.key, layer.query, layer.value) if swapped else (layer.query, layer.key, layer.value)
    for place, weight, bias in zip(places, *parts, strict=True):
        place.kernel[...] = jnp.asarray(weight.T.reshape(WIDTH, heads, -1))
        place.bias[...] = jnp.asarray(bias.reshape(heads, -1))
    layer.out.kernel[...] = jnp.asarray(t["attention.out_proj.weight"].T.reshape(heads, -1, WIDTH))
    layer.out.bias[...] = jnp.asarray(t["attention.out_proj.bias"])
    norm = nnx.LayerNorm(WIDTH, epsilon=eps, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.asarray(t["norm.weight"]), jnp.asarray(t["norm.bias"])
    x = 0.1 * sequence(WIDTH, WIDTH if size == "square" else 5)
    return pair(model, lambda x: x + layer(norm(x) * scale), x, x)


class Gained(torch.nn.Module):
    """An RMS norm whose gain is 1 + weight, embeddings that are scaled, a tied head whose logits are capped."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.weight = torch.nn.Embedding(13, WIDTH), torch.nn.Parameter(torch.zeros(WIDTH))
        self.up, self.down = torch.nn.Linear(WIDTH, 12), torch.nn.Linear(12, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) * math.sqrt(WIDTH)
        x = x + self.down(functional.silu(self.up(x)))
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)
        return 30.0 * torch.tanh(x @ self.table.weight.T / 30.0)


def nnx_gained(
    size: str,
    *,
    one: float = 1.0,
    eps: float = 1e-6,
    cap: float | None = 30.0,
    factor: float = math.sqrt(WIDTH),
    act: Any = jax.nn.silu,
) -> Pair:
    model = seeded(Gained())
    t = state(model)
    table = nnx.Embed(13, WIDTH, rngs=nnx.Rngs(0))
    table.embedding[...] = jnp.asarray(t["table.weight"])
    gain, up, down = jnp.asarray(t["weight"]), arrays(dense(t, "up")), arrays(dense(t, "down"))

    def port(ids: Any) -> Any:
        x = table(ids) * factor
        x = x + act(x @ up["kernel"] + up["bias"]) @ down["kernel"] + down["bias"]
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + eps) * (one + gain if one else gain)
        y = table.attend(x)
        return y if cap is None else cap * jnp.tanh(y / cap)

    ids = np.random.default_rng(0).integers(0, 13, (2, WIDTH if size == "square" else 5))
    return pair(model, port, ids, ids)


FORMULA = ("FO008",)
PORTS = (
    Port(
        "nnx GRUCell",
        nnx_gru,
        (
            Mistake({"order": (1, 0, 2)}, ("FO004",), None, ("z r n",)),
            Mistake({"moved": True}, FORMULA, None, ("unreset",)),
            Mistake({"lost": True}, ("FO007",), None, ("bias_hh",)),
            Mistake({"back": True}, ("FO008", "IN001", "FO004"), None),
        ),
    ),
    Port(
        "Equinox LSTMCell, both ways",
        eqx_both_ways,
        (
            Mistake({"left": True}, ("FO008", "FO004"), "fc"),
            Mistake({"forget": 1.0}, ("FO003", "FO008", "ST001"), None),
            Mistake({"swapped": True}, ("FO004", "FO008"), "fc"),
        ),
    ),
    Port(
        "rotary attention",
        rotary,
        (
            Mistake({"base": 500_000.0}, ("FO003",), "o", ("500000",)),
            Mistake({"pairs": True}, ("FO004", "FO008"), "o"),
            Mistake({"turn": -1.0}, ("FO003", "FO008"), "o"),
            Mistake({"tiled": True}, ("FO004", "FO008"), "o"),
            Mistake({"masked": False}, ("IN003",), "o"),
        ),
    ),
    Port(
        "nnx MultiHeadAttention",
        nnx_stacked,
        (
            Mistake({"eps": 1e-2}, ("FO002",), None, ("0.01",)),
            Mistake({"swapped": True}, ("FO004", "FO008"), "attention"),
            Mistake({"heads": 4}, ("FO008", "FO003", "FO004"), "attention"),
            Mistake({"scale": 2.0}, ("FO003",), None, ("2",)),
        ),
    ),
    Port(
        "nnx Embed, capped",
        nnx_gained,
        (
            Mistake({"one": 0.0}, ("FO003", "FO002", "FO008"), "", ("1",)),
            Mistake({"eps": 0.1}, ("FO002",), "", ("0.1",)),
            Mistake({"cap": None}, ("FO001", "FO003", "FO008"), ""),
            Mistake({"cap": 5.0}, ("FO003",), "", ("5",)),
            Mistake({"factor": 1.0}, ("FO003",), None, ("2.82",)),
            Mistake({"act": jax.nn.gelu, "cap": 5.0}, ("FO001", "FO003"), "down"),
        ),
    ),
)
