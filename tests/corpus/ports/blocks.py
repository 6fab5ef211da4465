"""Ports of whole blocks of images; answers came before the first run."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import torch
from flax import nnx
from tests.corpus.ports.parts import Mistake, Pair, Port, arrays, dense, image, kernel, last, pair, seeded, state
from torch.nn import functional

WIDTH, HEADS = 8, 2
BEFORE = ((2, 2), (2, 2))


class Depthwise(torch.nn.Module):
    """A dilated depthwise convolution, a batch norm, a clipped rectifier, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.norm, self.fc = torch.nn.BatchNorm2d(6), torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(functional.relu6(4 * self.norm(self.conv(x))).mean((2, 3)))


def nnx_depthwise(
    size: str, *, eps: float = 1e-5, dilation: int = 2, padding: Any = BEFORE, act: Any = jax.nn.relu6
) -> Pair:
    model = seeded(Depthwise())
    t = state(model)
    padding = padding if dilation == 2 else ((1, 1), (1, 1))
    rngs = nnx.Rngs(0)
    conv = nnx.Conv(6, 6, (3, 3), padding=padding, kernel_dilation=dilation, feature_group_count=6, rngs=rngs)
    norm = nnx.BatchNorm(6, use_running_average=True, epsilon=eps, rngs=rngs)
    conv.kernel[...], conv.bias[...] = jnp.asarray(kernel(t["conv.weight"])), jnp.asarray(t["conv.bias"])
    norm.scale[...], norm.bias[...] = jnp.asarray(t["norm.weight"]), jnp.asarray(t["norm.bias"])
    norm.mean[...], norm.var[...] = jnp.asarray(t["norm.running_mean"]), jnp.asarray(t["norm.running_var"])
    fc = arrays(dense(t, "fc"))
    x = image(6, size)
    return pair(model, lambda x: act(4 * norm(conv(x))).mean((1, 2)) @ fc["kernel"] + fc["bias"], x, last(x))


class Raised(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.ConvTranspose2d(6, 6, 3, stride=2, padding=1, output_padding=1)
        self.norm = torch.nn.InstanceNorm2d(6, affine=True)
        self.end = torch.nn.Conv2d(6, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(functional.elu(self.norm(0.1 * self.up(x))))


def eqx_raised(
    size: str, *, flipped: bool = True, padding: Any = 1, turn: bool = True, eps: float = 1e-5, act: Any = jax.nn.elu
) -> Pair:
    model = seeded(Raised())
    t = state(model)
    weight = t["up.weight"].swapaxes(0, 1) if turn else t["up.weight"]
    weight = weight[..., ::-1, ::-1].copy() if flipped else weight
    up = eqx.nn.ConvTranspose2d(
        6, 6, 3, stride=2, padding=padding, output_padding=1 if padding == 1 else 0, key=jax.random.key(0)
    )
    end = eqx.nn.Conv2d(6, 4, 1, key=jax.random.key(0))
    up, end = (
        eqx.tree_at(lambda m: (m.weight, m.bias), layer, (jnp.asarray(w), jnp.asarray(b.reshape(-1, 1, 1))))
        for layer, w, b in ((up, weight, t["up.bias"]), (end, t["end.weight"], t["end.bias"]))
    )
    norm = eqx.nn.GroupNorm(6, 6, eps=eps)
    norm = eqx.tree_at(lambda m: (m.weight, m.bias), norm, (jnp.asarray(t["norm.weight"]), jnp.asarray(t["norm.bias"])))
    x = image(6, size)
    return pair(model, lambda x: jax.vmap(lambda one: end(act(norm(0.1 * up(one)))))(x), x, x)


class Pooled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(self.one(x), 3, 2, 1)
        return functional.avg_pool2d(functional.leaky_relu(self.two(x), 0.1), 3, 1, 1)


def linen_pooled(size: str, *, most: Any = ((1, 1), (1, 1)), counted: bool = True, slope: float = 0.1) -> Pair:
    model = seeded(Pooled())
    t = state(model)
    given = arrays({n: {"kernel": kernel(t[f"{n}.weight"]), "bias": t[f"{n}.bias"]} for n in ("one", "two")})

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.max_pool(linen.Conv(6, (3, 3), name="one")(x), (3, 3), (2, 2), most)
            x = linen.leaky_relu(linen.Conv(5, (3, 3), name="two")(x), slope)
            return linen.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=counted)

    x = image(4, size)
    return pair(model, lambda x: Net().apply({"params": given}, x), x, last(x))


class Modern(torch.nn.Module):
    """ConvNeXt's block: a depthwise convolution, a layer norm over channels, a feed-forward layer, a gain, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(6, 6, 7, padding=3, groups=6), torch.nn.LayerNorm(6, eps=1e-6)
        self.up, self.down = torch.nn.Linear(6, 12), torch.nn.Linear(12, 6)
        self.gain = torch.nn.Parameter(torch.zeros(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(0.1 * self.conv(x).permute(0, 2, 3, 1))
        return x + (self.gain * self.down(functional.gelu(self.up(y)))).permute(0, 3, 1, 2)


def linen_modern(
    size: str,
    *,
    eps: float = 1e-6,
    approximate: bool = False,
    gained: bool = True,
    padding: Any = "SAME",
    rest: bool = True,
) -> Pair:
    model = seeded(Modern())
    t = state(model)
    given = arrays(
        {
            "conv": {"kernel": kernel(t["conv.weight"]), "bias": t["conv.bias"]},
            "norm": {"scale": t["norm.weight"], "bias": t["norm.bias"]},
            "up": dense(t, "up"),
            "down": dense(t, "down"),
            "gain": t["gain"],
        }
    )

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            y = 0.1 * linen.Conv(6, (7, 7), padding=padding, feature_group_count=6, name="conv")(x)
            y = linen.Dense(12, name="up")(linen.LayerNorm(epsilon=eps, name="norm")(y))
            y = linen.Dense(6, name="down")(linen.gelu(y, approximate=approximate))
            y = y * self.param("gain", linen.initializers.zeros, (6,)) if gained else y
            return x + y if rest else y

    x = image(6, size)
    return pair(model, lambda x: Net().apply({"params": given}, x), x, last(x))


class Patches(torch.nn.Module):
    """A vision transformer of one block: patches, a first token, learned positions, a block before whose parts are norms."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.first = torch.nn.Conv2d(3, WIDTH, 2, 2), torch.nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = torch.nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.one, self.two, self.norm = (torch.nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(3))
        self.q, self.k, self.v, self.o = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down, self.head = (
            torch.nn.Linear(WIDTH, 16),
            torch.nn.Linear(16, WIDTH),
            torch.nn.Linear(WIDTH, 5),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cut(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.first.expand(y.shape[0], -1, -1), y], 1)
        y = 0.1 * (y + self.places[:, : y.shape[1]])
        z = self.one(y)
        q, k, v = (layer(z).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = y + self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = y + self.down(functional.gelu(self.up(self.two(y))))
        return self.head(self.norm(y)[:, 0])


def linen_patches(
    size: str,
    *,
    eps: float = 1e-6,
    approximate: bool = False,
    placed: bool = True,
    pooled: bool = False,
    late: bool = False,
    transpose: bool = False,
) -> Pair:
    model = seeded(Patches())
    t = state(model)
    names = ("one", "two", "norm")
    cut, head, up, down, o = (arrays(dense(t, n)) if n != "cut" else None for n in ("cut", "head", "up", "down", "o"))
    cut = arrays({"kernel": kernel(t["cut.weight"]), "bias": t["cut.bias"]})
    q, k, v = (arrays(dense(t, name, transpose=transpose and name == "k")) for name in "qkv")
    gains = arrays({n: {"scale": t[f"{n}.weight"], "bias": t[f"{n}.bias"]} for n in names})
    first, places = jnp.asarray(t["first"]), jnp.asarray(t["places"])

    def normed(x: Any, name: str) -> Any:
        return linen.LayerNorm(epsilon=eps).apply({"params": gains[name]}, x)

    def layer(x: Any, kept: Any) -> Any:
        return x @ kept["kernel"] + kept["bias"]

    def port(x: Any) -> Any:
        y = linen.Conv(WIDTH, (2, 2), strides=2, padding="VALID").apply({"params": cut}, x)
        y = y.reshape(y.shape[0], -1, WIDTH)
        token = jnp.broadcast_to(first, (y.shape[0], 1, WIDTH))
        y = jnp.concatenate([y, token] if late else [token, y], 1)
        y = 0.1 * (y + places[:, : y.shape[1]] if placed else y)
        z = normed(y, "one")
        one, two, three = (layer(z, kept).reshape(*z.shape[:2], HEADS, -1) for kept in (q, k, v))
        y = y + layer(linen.dot_product_attention(one, two, three).reshape(z.shape), o)
        y = y + layer(linen.gelu(layer(normed(y, "two"), up), approximate=approximate), down)
        y = normed(y, "norm")
        return layer(y.mean(1) if pooled else y[:, -1 if late else 0], head)

    x = image(3, size)
    return pair(model, port, x, last(x))


FORMULA = ("FO008",)
PORTS = (
    Port(
        "nnx depthwise",
        nnx_depthwise,
        (
            Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),
            Mistake({"dilation": 1}, FORMULA, "conv", ("dilat",)),
            Mistake({"padding": ((1, 3), (3, 1))}, FORMULA, "conv", ("pads",)),
            Mistake({"act": jax.nn.relu}, ("FO001", "FO008"), None),
        ),
    ),
    Port(
        "Equinox ConvTranspose2d",
        eqx_raised,
        (
            Mistake({"flipped": False}, ("FO004",), "up", ("kernel",)),
            Mistake({"padding": ((0, 1), (0, 1))}, FORMULA, "up", ("pads",)),
            Mistake({"turn": False}, ("FO004",), "up"),
            Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),
            Mistake({"act": jax.nn.silu, "flipped": False}, ("FO001", "FO004"), "up"),
        ),
    ),
    Port(
        "linen pooling",
        linen_pooled,
        (
            Mistake({"most": "SAME"}, FORMULA, "", ("pads",)),
            Mistake({"counted": False}, FORMULA, "", ("pad",)),
            Mistake({"slope": 0.01}, ("FO001", "FO003"), None),
        ),
    ),
    Port(
        "linen ConvNeXt block",
        linen_modern,
        (
            Mistake({"eps": 1e-2}, ("FO002",), "norm", ("0.01",)),
            Mistake({"approximate": True}, ("FO001",), None, ("tanh",)),
            Mistake({"gained": False}, ("FO007", "FO003"), "", ("gain",)),
            Mistake({"padding": ((4, 2), (2, 4))}, FORMULA, "conv", ("pads",)),
            Mistake({"rest": False}, ("FO007", "FO008"), ""),
            Mistake({"eps": 1e-2, "padding": ((4, 2), (2, 4))}, ("FO008", "FO002"), "conv"),
        ),
    ),
    Port(
        "linen ViT",
        linen_patches,
        (
            Mistake({"eps": 1e-3}, ("FO002",), "one", ("0.001",)),
            Mistake({"approximate": True}, ("FO001",), None, ("tanh",)),
            Mistake({"placed": False}, ("FO007",), None, ("places",)),
            Mistake({"pooled": True}, ("FO008",), "head"),
            Mistake({"late": True}, ("FO008", "FO004"), None),
            Mistake({"transpose": True}, ("FO004",), "k", ("transposed",)),
            Mistake({"eps": 1e-3, "approximate": True}, ("FO002", "FO001"), "one"),
        ),
    ),
)
