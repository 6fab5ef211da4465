"""Ports of convolutions, batch and group norms, and resamplings."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from tests.corpus.ports.parts import Mistake, Pair, Port, arrays, dense, image, kernel, last, pair, seeded, state
from torch.nn import functional

PADDING = ("FO008",)


class Convolved(torch.nn.Module):
    """A layer, a rectifier, the mean of space, a head."""

    def __init__(self, layer: torch.nn.Module, channels: int = 6) -> None:
        super().__init__()
        self.layer, self.fc = layer, torch.nn.Linear(channels, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.layer(x))
        return self.fc(y.flatten(2).mean(2))


def linen_conv(
    size: str,
    *,
    space: int = 2,
    strides: int = 1,
    padding: Any = None,
    turn: bool = False,
    groups: int = 1,
    dilation: int = 1,
) -> Pair:
    layers = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
    model = seeded(
        Convolved(
            layers[space](
                4, 6 if groups == 1 else 8, 3, stride=strides, padding=dilation, groups=groups, dilation=dilation
            ),
            6 if groups == 1 else 8,
        )
    )
    t = state(model)
    x = image(4, size)
    x = x.reshape(2, 4, -1)[:, :, :17] if space == 1 else np.stack([x, x[..., ::-1], x * 0.5], 2) if space == 3 else x
    weight = kernel(t["layer.weight"])
    if turn:
        weight = weight.swapaxes(0, 1)
    pads = padding or ((dilation, dilation),) * space
    given = arrays({"conv": {"kernel": weight, "bias": t["layer.bias"]}, "fc": dense(t, "fc")})

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.Conv(
                weight.shape[-1],
                (3,) * space,
                strides=strides,
                padding=pads,
                feature_group_count=groups,
                kernel_dilation=dilation,
                name="conv",
            )(x)
            return linen.Dense(5, name="fc")(linen.relu(x).mean(tuple(range(1, space + 1))))

    return pair(model, lambda x: Net().apply({"params": given}, x), x, last(x))


def nnx_conv(size: str, *, padding: Any = ((1, 1), (1, 1)), drop_bias: bool = False) -> Pair:
    model = seeded(Convolved(torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)))
    t = state(model)
    layer = nnx.Conv(4, 6, (3, 3), strides=2, padding=padding, rngs=nnx.Rngs(0))
    head = nnx.Linear(6, 5, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(kernel(t["layer.weight"]))
    layer.bias[...] = jnp.asarray(t["layer.bias"] * (0 if drop_bias else 1))
    head.kernel[...], head.bias[...] = jnp.asarray(t["fc.weight"].T), jnp.asarray(t["fc.bias"])
    x = image(4, size)
    return pair(model, lambda x: head(jax.nn.relu(layer(x)).mean((1, 2))), x, last(x))


def eqx_conv(size: str, *, padding: Any = 1, square: bool = False) -> Pair:
    model = seeded(Convolved(torch.nn.Conv2d(6, 6, 3, padding=1)))
    t = state(model)
    layer = eqx.nn.Conv2d(6, 6, 3, padding=padding, key=jax.random.key(0))
    weight = t["layer.weight"].swapaxes(0, 1) if square else t["layer.weight"]
    layer = eqx.tree_at(
        lambda m: (m.weight, m.bias), layer, (jnp.asarray(weight), jnp.asarray(t["layer.bias"].reshape(-1, 1, 1)))
    )
    w, b = jnp.asarray(t["fc.weight"]), jnp.asarray(t["fc.bias"])
    x = image(6, size)
    return pair(model, lambda x: jax.vmap(lambda one: w @ jax.nn.relu(layer(one)).mean((1, 2)) + b)(x), x, x)


def linen_transposed(size: str, *, flipped: bool = True, padding: Any = ((1, 2), (1, 2))) -> Pair:
    model = seeded(Convolved(torch.nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1)))
    t = state(model)
    weight = t["layer.weight"].transpose(2, 3, 0, 1)
    weight = weight[::-1, ::-1] if flipped else weight
    given = arrays({"up": {"kernel": weight.copy(), "bias": t["layer.bias"]}, "fc": dense(t, "fc")})

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.ConvTranspose(6, (3, 3), strides=(2, 2), padding=padding, name="up")(x)
            return linen.Dense(5, name="fc")(linen.relu(x).mean((1, 2)))

    x = image(4, size)
    return pair(model, lambda x: Net().apply({"params": given}, x), x, last(x))


class Normed(torch.nn.Module):
    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = torch.nn.Conv2d(4, 6, 3, padding=1), norm, torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.norm(0.1 * self.conv(x))).mean((2, 3)))


def linen_norm(
    size: str, *, kind: str = "batch", eps: float = 1e-5, groups: int = 3, padding: Any = "SAME", batch: bool = False
) -> Pair:
    model = seeded(Normed(torch.nn.BatchNorm2d(6) if kind == "batch" else torch.nn.GroupNorm(3, 6)))
    t = state(model)
    params = {
        "conv": {"kernel": kernel(t["conv.weight"]), "bias": t["conv.bias"]},
        "norm": {"scale": t["norm.weight"], "bias": t["norm.bias"]},
        "fc": dense(t, "fc"),
    }
    given = arrays(
        {"params": params}
        | (
            {"batch_stats": {"norm": {"mean": t["norm.running_mean"], "var": t["norm.running_var"]}}}
            if kind == "batch"
            else {}
        )
    )

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = 0.1 * linen.Conv(6, (3, 3), padding=padding, name="conv")(x)
            if kind == "batch":
                x = linen.BatchNorm(use_running_average=not batch, epsilon=eps, name="norm")(x)
            else:
                x = linen.GroupNorm(num_groups=groups, epsilon=eps, name="norm")(x)
            return linen.Dense(5, name="fc")(linen.relu(x).mean((1, 2)))

    x = image(4, size)
    port = (lambda x: Net().apply(given, x, mutable=["batch_stats"])[0]) if batch else (lambda x: Net().apply(given, x))
    return pair(model, port, x, last(x))


def linen_training(size: str, *, momentum: float = 0.9, unbiased: bool = True) -> Pair:
    """A batch norm in training: what is normalised and the running statistics afterwards."""
    model = seeded(torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.BatchNorm2d(6)))
    t = state(model)
    before = {"mean": t["1.running_mean"], "var": t["1.running_var"]}
    given = arrays(
        {
            "params": {
                "conv": {"kernel": kernel(t["0.weight"]), "bias": t["0.bias"]},
                "norm": {"scale": t["1.weight"], "bias": t["1.bias"]},
            },
            "batch_stats": {"norm": before},
        }
    )
    x = image(4, size)
    count = x[:, 0].size

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.Conv(6, (3, 3), padding="SAME", name="conv")(x)
            return linen.BatchNorm(use_running_average=False, momentum=momentum, epsilon=1e-5, name="norm")(x)

    def port(x: Any) -> Any:
        y, kept = Net().apply(given, x, mutable=["batch_stats"])
        var = kept["batch_stats"]["norm"]["var"]
        if unbiased:  # PyTorch keeps the variance over n - 1
            old = given["batch_stats"]["norm"]["var"]
            var = momentum * old + (var - momentum * old) * (count / (count - 1))
        return y, kept["batch_stats"]["norm"]["mean"], var

    def ours(x: torch.Tensor) -> Any:
        y = model.train()(x)
        return y, model[1].running_mean.clone(), model[1].running_var.clone()

    return pair(ours, port, x, last(x))


def eqx_group_norm(size: str, *, eps: float = 1e-5, groups: int = 3) -> Pair:
    model = seeded(Normed(torch.nn.GroupNorm(3, 6)))
    t = state(model)
    conv = eqx.nn.Conv2d(4, 6, 3, padding=1, key=jax.random.key(0))
    conv = eqx.tree_at(
        lambda m: (m.weight, m.bias),
        conv,
        (jnp.asarray(t["conv.weight"]), jnp.asarray(t["conv.bias"].reshape(-1, 1, 1))),
    )
    norm = eqx.nn.GroupNorm(groups, 6, eps=eps)
    norm = eqx.tree_at(lambda m: (m.weight, m.bias), norm, (jnp.asarray(t["norm.weight"]), jnp.asarray(t["norm.bias"])))
    w, b = jnp.asarray(t["fc.weight"]), jnp.asarray(t["fc.bias"])
    x = image(4, size)
    return pair(model, lambda x: jax.vmap(lambda one: w @ jax.nn.relu(norm(0.1 * conv(one))).mean((1, 2)) + b)(x), x, x)


class Resized(torch.nn.Module):
    def __init__(self, mode: str, align: bool | None) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.Conv2d(6, 5, 1)
        self.how = {"mode": mode, "align_corners": align}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.interpolate(self.first(x), scale_factor=2, **self.how)
        return self.last(y)


def resized(size: str, *, mode: str = "bilinear", method: str = "bilinear", align: bool = False) -> Pair:
    model = seeded(Resized(mode, None if mode.startswith("nearest") else align))
    t = state(model)
    given = arrays(
        {
            "first": {"kernel": kernel(t["first.weight"]), "bias": t["first.bias"]},
            "last": {"kernel": kernel(t["last.weight"]), "bias": t["last.bias"]},
        }
    )

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            x = linen.Conv(6, (3, 3), name="first")(x)
            x = jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), method)
            return linen.Conv(5, (1, 1), name="last")(x)

    x = image(4, size)
    return pair(model, lambda x: Net().apply({"params": given}, x), x, last(x))


def _with(make: Any, **fixed: Any) -> Any:
    return lambda size, **mistake: make(size, **(fixed | mistake))


SHIFTED = {"padding": ((0, 2), (0, 2))}
PORTS = (
    Port(
        "linen Conv 2d",
        linen_conv,
        (Mistake(SHIFTED, PADDING, "layer", ("pads",)), Mistake({"turn": True}, ("FO004",), "layer")),
    ),
    Port(
        "linen Conv 2d, stride 2",
        _with(linen_conv, strides=2),
        (Mistake({"padding": "SAME"}, PADDING, "layer", ("SAME",)), Mistake(SHIFTED, PADDING, "layer", ("pads",))),
    ),
    Port(
        "linen Conv 1d, dilated",
        _with(linen_conv, space=1, dilation=2),
        (
            Mistake({"padding": ((4, 0),)}, PADDING, "layer", ("pads",)),
            Mistake({"padding": ((0, 4),)}, PADDING, "layer", ("pads",)),
        ),
    ),
    Port(
        "linen Conv 3d",
        _with(linen_conv, space=3),
        (
            Mistake({"padding": ((0, 2),) * 3}, PADDING, "layer", ("pads",)),
            Mistake({"padding": ((1, 1), (1, 1), (2, 0))}, PADDING, "layer", ("pads",)),
        ),
    ),
    Port(
        "linen Conv 2d, grouped",
        _with(linen_conv, groups=4),
        (Mistake(SHIFTED, PADDING, "layer", ("pads",)), Mistake({"turn": True}, ("FO004",), "layer")),
    ),
    Port(
        "nnx Conv 2d, stride 2",
        nnx_conv,
        (
            Mistake({"padding": "SAME"}, PADDING, "layer", ("SAME",)),
            Mistake({"drop_bias": True}, ("FO007",), "layer", ("bias",)),
        ),
    ),
    Port(
        "Equinox Conv2d",
        eqx_conv,
        (
            Mistake({"padding": ((0, 2), (0, 2))}, PADDING, "layer", ("pads",)),
            Mistake({"square": True}, ("FO004",), "layer"),
        ),
    ),
    Port(
        "linen ConvTranspose",
        linen_transposed,
        (
            Mistake({"flipped": False}, ("FO004",), "layer", ("kernel",)),
            Mistake({"padding": "SAME"}, PADDING, "layer", ("pads",)),
            Mistake({"padding": "SAME", "flipped": False}, ("FO008", "FO004"), "layer", ("pads", "kernel")),
        ),
    ),
    Port(
        "linen BatchNorm",
        linen_norm,
        (
            Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),
            Mistake({"batch": True}, ("FO008", "MD001"), "norm", ("batch",)),
            Mistake({"eps": 1e-3, "padding": ((0, 2), (0, 2))}, ("FO008", "FO002"), "conv"),
        ),
    ),
    Port(
        "linen BatchNorm in training",
        linen_training,
        (
            Mistake({"momentum": 0.99}, ("FO008", "FO003", "FO002")),
            Mistake({"unbiased": False}, ("FO008",), None, ("biased",)),
        ),
    ),
    Port(
        "linen GroupNorm",
        _with(linen_norm, kind="group"),
        (
            Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),
            Mistake({"groups": 2}, ("FO008",), "norm", ("groups",)),
        ),
    ),
    Port(
        "Equinox GroupNorm",
        eqx_group_norm,
        (
            Mistake({"eps": 1e-3}, ("FO002",), "norm", ("0.001",)),
            Mistake({"groups": 6}, ("FO008",), "norm", ("groups",)),
        ),
    ),
    Port(
        "bilinear resize",
        resized,
        (
            Mistake({"align": True}, ("FO008",), None, ("corners",)),
            Mistake({"method": "nearest"}, ("FO008",), None, ("nearest",)),
        ),
    ),
    Port(
        "nearest resize",
        _with(resized, mode="nearest", method="nearest"),
        (
            Mistake({"method": "bilinear"}, ("FO008",), None, ("linear",)),
            Mistake({"method": "cubic"}, ("FO008",), None, ("cubic",)),
        ),
    ),
)
