"""What the ports of the corpus have in common: numbers, weights of a torch model, layouts of JAX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from tests.compiled import quickly

SIZES = {"square": (8, 8), "wide": (8, 6)}
Pair = tuple[Callable[..., Any], Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]
"""Both models and both sides' inputs."""


@dataclass(frozen=True)
class Mistake:
    """One planted mistake.

    Attributes:
        given: what the port is made with.
        codes: causes that name it.
        at: what the first origin's scope begins with; None: any.
        says: words that the cause's sentence has.
    """

    given: dict[str, Any]
    codes: tuple[str, ...]
    at: str | None = None
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Port:
    """A module and its port: ``make(size, **mistake)``; right without one."""

    name: str
    make: Callable[..., Pair]
    mistakes: tuple[Mistake, ...] = field(default=())


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """A model with numbers of which no two tensors have the same, in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                drawn = torch.randn(value.shape, generator=generator)
                spread = value.ndim > 1
                value.copy_(drawn * (2.0 / value.numel() * value.shape[0]) ** 0.5 if spread else 1 + 0.3 * drawn)
                if name.endswith("running_var"):
                    value.abs_().add_(0.2)
    return model.eval()


def state(model: torch.nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    return {name: value.detach().numpy().copy() for name, value in model.state_dict().items()}


def image(channels: int, size: str, batch: int = 2) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((batch, channels, *SIZES[size])).astype(np.float32)


def sequence(width: int, length: int = 5, batch: int = 2) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((batch, length, width)).astype(np.float32)


def pair(model: Any, port: Any, ours: Any, theirs: Any) -> Pair:
    return model, quickly(port), (torch.from_numpy(np.ascontiguousarray(ours)),), (jnp.asarray(theirs),)


def last(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Channels first → channels last."""
    return np.moveaxis(array, 1, -1)


def kernel(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Torch's OI… → flax's …IO."""
    return np.moveaxis(array, (0, 1), (-1, -2))


def dense(t: dict[str, Any], name: str, *, transpose: bool = False) -> dict[str, Any]:
    """A linear layer's weights as flax's Dense takes them."""
    weight = t[f"{name}.weight"]
    return {"kernel": weight if transpose else weight.T, "bias": t[f"{name}.bias"]}


def arrays(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)
