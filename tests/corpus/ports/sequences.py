"""Ports of norms over features, recurrent cells, attention, embeddings and feed-forward layers."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from tests.corpus.ports.parts import Mistake, Pair, Port, arrays, dense, pair, seeded, sequence, state
from torch.nn import functional

WIDTH = 8
EPS = (Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),)


class Normed(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = torch.nn.Linear(WIDTH, WIDTH), norm, torch.nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(0.1 * self.first(x)))


def norm(
    size: str, *, kind: str = "linen", eps: float = 1e-5, transpose: bool = False, rms: bool = False, spread: int = 0
) -> Pair:
    model = seeded(Normed(torch.nn.RMSNorm(WIDTH, eps=1e-5) if rms else torch.nn.LayerNorm(WIDTH)))
    t = state(model)
    gain = jnp.asarray(t["norm.weight"])
    shift = jnp.asarray(t["norm.bias"]) if "norm.bias" in t else None
    first, head = arrays(dense(t, "first", transpose=transpose)), arrays(dense(t, "last"))
    if kind == "linen":
        layer = linen.RMSNorm(epsilon=eps) if rms else linen.LayerNorm(epsilon=eps)
        given = {"params": {"scale": gain} | ({} if shift is None else {"bias": shift})}

        def normed(x: Any) -> Any:
            return layer.apply(given, x)

    elif kind == "nnx":
        made = (
            nnx.RMSNorm(WIDTH, epsilon=eps, rngs=nnx.Rngs(0))
            if rms
            else nnx.LayerNorm(WIDTH, epsilon=eps, rngs=nnx.Rngs(0))
        )
        made.scale[...] = gain
        if shift is not None:
            made.bias[...] = shift
        normed = made
    elif kind == "equinox":
        one = eqx.nn.RMSNorm(WIDTH, eps=eps, use_bias=False) if rms else eqx.nn.LayerNorm(WIDTH, eps=eps)
        one = eqx.tree_at(lambda m: m.weight, one, gain)
        if shift is not None:
            one = eqx.tree_at(lambda m: m.bias, one, shift)
        normed = jax.vmap(jax.vmap(one))
    else:

        def normed(x: Any) -> Any:
            return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(
                x.var(-1, keepdims=True, ddof=spread) + eps
            ) * gain + shift

    def port(x: Any) -> Any:
        y = normed(0.1 * (x @ first["kernel"] + first["bias"]))
        return y @ head["kernel"] + head["bias"]

    x = sequence(WIDTH, 8 if size == "square" else 5)
    return pair(model, port, x, x)


class Recurrent(torch.nn.Module):
    def __init__(self, kind: Any, width: int) -> None:
        super().__init__()
        self.rnn, self.fc = kind(WIDTH, width, batch_first=True), torch.nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


def _blocks(array: np.ndarray[Any, Any], order: tuple[int, ...]) -> np.ndarray[Any, Any]:
    parts = np.split(array, len(order))
    return np.concatenate([parts[i] for i in order])


def equinox_rnn(
    size: str, *, lstm: bool = False, order: tuple[int, ...] | None = None, moved: bool = False, lost: bool = False
) -> Pair:
    width = WIDTH if size == "square" else 6
    model = seeded(Recurrent(torch.nn.LSTM if lstm else torch.nn.GRU, width))
    t = state(model)
    order = order or tuple(range(4 if lstm else 3))
    w, u, b, c = (_blocks(t[f"rnn.{name}_l0"], order) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    if lstm:
        cell = eqx.nn.LSTMCell(WIDTH, width, key=jax.random.key(0))
        cell = eqx.tree_at(
            lambda m: (m.weight_ih, m.weight_hh, m.bias),
            cell,
            tuple(jnp.asarray(x) for x in (w, u, b if lost else b + c)),
        )
    else:
        cell = eqx.nn.GRUCell(WIDTH, width, key=jax.random.key(0))
        late = c[2 * width :]
        c = 0 * c if lost else c
        both = np.concatenate([(b + c)[: 2 * width], b[2 * width :] + (late if moved else 0)])
        last = 0 * late if moved or lost else late
        cell = eqx.tree_at(
            lambda m: (m.weight_ih, m.weight_hh, m.bias, m.bias_n),
            cell,
            tuple(jnp.asarray(x) for x in (w, u, both, last)),
        )
    head = arrays(dense(t, "fc"))

    def run(one: Any) -> Any:
        zero = jnp.zeros(width)

        def step(carry: Any, x: Any) -> Any:
            carry = cell(x, carry)
            return carry, (carry[0] if lstm else carry)

        return jax.lax.scan(step, (zero, zero) if lstm else zero, one)[1]

    x = sequence(WIDTH)
    return pair(model, lambda x: jax.vmap(run)(x) @ head["kernel"] + head["bias"], x, x)


def linen_gru(size: str, *, swapped: bool = False, late: bool = False) -> Pair:
    width = WIDTH if size == "square" else 6
    model = seeded(Recurrent(torch.nn.GRU, width))
    t = state(model)
    (wr, wz, wn), (ur, uz, un) = (np.split(t[f"rnn.weight_{name}_l0"], 3) for name in ("ih", "hh"))
    (br, bz, bn), (cr, cz, cn) = (np.split(t[f"rnn.bias_{name}_l0"], 3) for name in ("ih", "hh"))
    r, z = ((wr, ur, br + cr), (wz, uz, bz + cz))
    r, z = (z, r) if swapped else (r, z)
    if late:
        bn, cn = bn + cn, 0 * cn
    params = {"in": {"kernel": wn.T, "bias": bn}, "hn": {"kernel": un.T, "bias": cn}}
    for gate, (w, u, b) in (("r", r), ("z", z)):
        params |= {f"i{gate}": {"kernel": w.T, "bias": b}, f"h{gate}": {"kernel": u.T}}
    given, head = arrays(params), arrays(dense(t, "fc"))
    rnn = linen.RNN(linen.GRUCell(width))
    x = sequence(WIDTH)
    return pair(model, lambda x: rnn.apply({"params": {"cell": given}}, x) @ head["kernel"] + head["bias"], x, x)


class Attending(torch.nn.Module):
    def __init__(self, *, heads: int = 2, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.o(y.transpose(1, 2).flatten(2))


def attention(
    size: str,
    *,
    causal: bool = True,
    kind: str = "linen",
    scale: float | None = None,
    masked: bool = True,
    transpose: bool = False,
) -> Pair:
    model = seeded(Attending(causal=causal))
    t = state(model)
    length = WIDTH if size == "square" else 5
    q, k, v, o = (arrays(dense(t, name, transpose=transpose and name == "v")) for name in "qkvo")
    mask = jnp.tril(jnp.ones((length, length), bool)) if causal and masked else None

    def split(x: Any, layer: Any) -> Any:
        return (x @ layer["kernel"] + layer["bias"]).reshape(*x.shape[:-1], 2, -1)

    def port(x: Any) -> Any:
        one, two, three = (split(x, layer) for layer in (q, k, v))
        if kind == "linen" and scale is None:
            y = linen.dot_product_attention(one, two, three, mask=None if mask is None else mask[None, None])
        elif kind == "jax":
            y = jax.nn.dot_product_attention(one, two, three, scale=scale, is_causal=causal and masked)
        else:
            scores = jnp.einsum("bqhd,bkhd->bhqk", one, two) * (1 / math.sqrt(WIDTH // 2) if scale is None else scale)
            scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
            y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), three)
        return y.reshape(*x.shape) @ o["kernel"] + o["bias"]

    x = sequence(WIDTH, length)
    return pair(model, port, x, x)


class Embedded(torch.nn.Module):
    def __init__(self, factor: float, *, tied: bool = False) -> None:
        super().__init__()
        self.table, self.factor, self.tied = torch.nn.Embedding(13, WIDTH), factor, tied
        self.fc = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        y = self.fc(self.table(ids) * self.factor if self.factor != 1 else self.table(ids))
        return y @ self.table.weight.T if self.tied else y


def embedded(
    size: str, *, factor: float = 1.0, given: float | None = None, tied: bool = False, transpose: bool = False
) -> Pair:
    model = seeded(Embedded(factor, tied=tied))
    t = state(model)
    table, fc = jnp.asarray(t["table.weight"]), arrays(dense(t, "fc", transpose=transpose))
    given = factor if given is None else given

    def port(ids: Any) -> Any:
        x = jnp.take(table, ids, axis=0)
        y = (x * given if given != 1 else x) @ fc["kernel"] + fc["bias"]
        return y @ table.T if tied else y

    ids = np.random.default_rng(0).integers(0, 13, (2, 7))
    return pair(model, port, ids, ids)


class Gated(torch.nn.Module):
    def __init__(self, act: Any, *, gated: bool) -> None:
        super().__init__()
        self.up, self.gate, self.down = (
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.Linear(WIDTH, WIDTH),
            torch.nn.Linear(WIDTH, 5),
        )
        self.act, self.gated = act, gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x) if self.gated else self.act(self.up(x)))


def feed_forward(
    size: str, *, gated: bool = False, act: Any = None, transpose: bool = False, lost: bool = False
) -> Pair:
    model = seeded(Gated(functional.silu if gated else functional.gelu, gated=gated))
    t = state(model)
    up, gate, down = arrays(dense(t, "up", transpose=transpose)), arrays(dense(t, "gate")), arrays(dense(t, "down"))
    act = act or (jax.nn.silu if gated else lambda x: jax.nn.gelu(x, approximate=False))

    def port(x: Any) -> Any:
        a = x @ up["kernel"] + (0 if lost else up["bias"])
        y = act(x @ gate["kernel"] + gate["bias"]) * a if gated else act(a)
        return y @ down["kernel"] + down["bias"]

    x = sequence(WIDTH)
    return pair(model, port, x, x)


def _with(make: Any, **fixed: Any) -> Any:
    return lambda size, **mistake: make(size, **(fixed | mistake))


TRANSPOSED = Mistake({"transpose": True}, ("FO004",), None, ("transposed",))
PORTS = (
    Port(
        "linen LayerNorm",
        norm,
        (*EPS, TRANSPOSED, Mistake({"eps": 1e-3, "transpose": True}, ("FO002", "FO004"), "first")),
    ),
    Port("nnx LayerNorm", _with(norm, kind="nnx"), (*EPS, TRANSPOSED)),
    Port("Equinox LayerNorm", _with(norm, kind="equinox"), (*EPS, TRANSPOSED)),
    Port("LayerNorm by hand", _with(norm, kind="hand"), (*EPS, Mistake({"spread": 1}, ("FO008",), "norm", ("n - 1",)))),
    Port("linen RMSNorm", _with(norm, rms=True), (*EPS, TRANSPOSED)),
    Port("nnx RMSNorm", _with(norm, rms=True, kind="nnx"), (*EPS, TRANSPOSED)),
    Port("Equinox RMSNorm", _with(norm, rms=True, kind="equinox"), (*EPS, TRANSPOSED)),
    Port(
        "Equinox GRUCell",
        equinox_rnn,
        (
            Mistake({"order": (1, 0, 2)}, ("FO004",), None, ("z r n",)),
            Mistake({"moved": True}, ("FO008",), None, ("unreset",)),
            Mistake({"lost": True}, ("FO007",), None, ("bias_hh",)),
        ),
    ),
    Port(
        "linen GRUCell",
        linen_gru,
        (
            Mistake({"swapped": True}, ("FO004",), None, ("z r n",)),
            Mistake({"late": True}, ("FO008",), None, ("unreset",)),
        ),
    ),
    Port(
        "Equinox LSTMCell",
        _with(equinox_rnn, lstm=True),
        (
            Mistake({"order": (0, 1, 3, 2)}, ("FO004",), None, ("i f o g",)),
            Mistake({"lost": True}, ("FO007",), None, ("bias_hh",)),
        ),
    ),
    Port(
        "linen attention, causal",
        attention,
        (Mistake({"scale": 1.0}, ("FO003",), "o", ("scale",)), Mistake({"masked": False}, ("IN003",), "o")),
    ),
    Port(
        "attention by hand",
        _with(attention, kind="hand", causal=False),
        (
            Mistake({"scale": 1 / math.sqrt(WIDTH)}, ("FO003",), "o", ("scale",)),
            Mistake({"transpose": True}, ("FO004",), "v", ("transposed",)),
        ),
    ),
    Port(
        "jax.nn attention",
        _with(attention, kind="jax"),
        (Mistake({"scale": 0.25}, ("FO003",), "o", ("scale",)), Mistake({"masked": False}, ("IN003",), "o")),
    ),
    Port(
        "embedding, scaled",
        _with(embedded, factor=math.sqrt(WIDTH)),
        (
            Mistake({"given": 1.0}, ("FO003",), None, ("2.82",)),
            Mistake({"given": float(WIDTH)}, ("FO003",), None, ("8",)),
        ),
    ),
    Port(
        "embedding, tied head",
        _with(embedded, tied=True),
        (Mistake({"given": math.sqrt(WIDTH)}, ("FO003",), None, ("2.82",)), TRANSPOSED),
    ),
    Port(
        "GELU feed-forward",
        feed_forward,
        (
            Mistake({"act": jax.nn.gelu}, ("FO001",), None, ("tanh",)),
            TRANSPOSED,
            Mistake({"act": jax.nn.gelu, "transpose": True}, ("FO001", "FO004"), None),
        ),
    ),
    Port(
        "SwiGLU feed-forward",
        _with(feed_forward, gated=True),
        (Mistake({"act": jax.nn.gelu}, ("FO001",), None, ("GELU",)), TRANSPOSED),
    ),
)
