"""Small programs in plain JAX, Flax (nnx and linen) and Equinox, with a defect to plant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

WIDTH, HEADS, LAYERS, TOKENS = 16, 2, 3, 5


def tokens() -> jax.Array:
    return jax.random.normal(jax.random.key(7), (TOKENS, WIDTH))


def weights(seed: int = 0) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed), 5)
    shapes = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH), "up": (WIDTH, WIDTH)}
    layers = {
        name: jax.random.normal(key, (LAYERS, *shape)) * WIDTH**-0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    angles = jnp.arange(TOKENS)[:, None] * 10_000.0 ** -(jnp.arange(0, 8, 2) / 8)
    return {"layers": layers, "rotary": {"angles": angles}}


def norm(x: jax.Array, eps: float) -> jax.Array:
    with jax.named_scope("norm"):
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps)


def attention(x: jax.Array, w: Any, angles: jax.Array, heads_last: bool) -> jax.Array:
    with jax.named_scope("attention"):

        def split(y: jax.Array) -> jax.Array:
            if heads_last:
                return y.reshape(TOKENS, WIDTH // HEADS, HEADS).transpose(0, 2, 1)
            return y.reshape(TOKENS, HEADS, WIDTH // HEADS)

        q, k, v = (split(x @ w[name]) for name in "qkv")
        sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]

        def turned(y: jax.Array) -> jax.Array:
            a, b = jnp.split(y, 2, axis=-1)
            return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        q, k = turned(q), turned(k)
        scores = jnp.einsum("qhd,khd->hqk", q, k) * (WIDTH // HEADS) ** -0.5
        mixed = jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v)
        return mixed.reshape(TOKENS, WIDTH) @ w["o"]


def transformer(
    *, eps: float = 1e-5, heads_last: bool = False, round_table: bool = False, jit: bool = True
) -> Callable[[], jax.Array]:
    """A small transformer, layers in a scan, weights and tokens in its closure; an option plants a defect."""
    params, x = weights(), tokens()
    if round_table:
        params["rotary"]["angles"] = params["rotary"]["angles"].astype(jnp.bfloat16).astype(jnp.float32)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        def layer(carry: jax.Array, w: Any) -> tuple[jax.Array, None]:
            carry = carry + attention(norm(carry, eps), w, params["rotary"]["angles"], heads_last)
            with jax.named_scope("mlp"):
                return carry + jax.nn.gelu(carry @ w["up"]), None

        with jax.named_scope("layers"):
            return jax.lax.scan(layer, x, params["layers"])[0]

    run = jax.jit(forward) if jit else forward
    return functools.partial(run, params, x)


def nnx_model() -> Any:
    from flax import nnx

    class Block(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
            self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
            self.up = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = x + self.attention(self.norm(x))
            return x + nnx.gelu(self.up(x))

    class Model(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.layers = nnx.List([Block(rngs) for _ in range(2)])

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    return Model(nnx.Rngs(0))


def linen_model() -> tuple[Any, Any]:
    from flax import linen

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = x + linen.MultiHeadDotProductAttention(HEADS, name="attention")(linen.LayerNorm(name="norm")(x))
            return x + linen.gelu(linen.Dense(WIDTH, name="up")(x))

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            for number in range(2):
                x = Block(name=f"layer_{number}")(x)
            return x

    model = Model()
    return model, model.init(jax.random.key(0), tokens())


def equinox_model(eps: float = 1e-5) -> Any:
    import equinox as eqx

    class Block(eqx.Module):
        norm: Any
        attention: Any
        up: Any

        def __init__(self, key: Any) -> None:
            first, second = jax.random.split(key)
            self.norm = eqx.nn.LayerNorm(WIDTH, eps=eps)
            self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=first)
            self.up = eqx.nn.Linear(WIDTH, WIDTH, key=second)

        def __call__(self, x: Any) -> Any:
            y = jax.vmap(self.norm)(x)
            x = x + self.attention(y, y, y)
            return x + jax.nn.gelu(jax.vmap(self.up)(x))

    class Model(eqx.Module):
        layers: list[Any]

        def __init__(self) -> None:
            self.layers = [Block(key) for key in jax.random.split(jax.random.key(0), 2)]

        def __call__(self, x: Any) -> Any:
            for layer in self.layers:
                x = layer(x)
            return x

    return Model()
