"""Random numbers: pairs of callables, each named after what is wrong, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def _generator(seed: int = 42) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 8)).eval()


def _denoised(net: nn.Module, noise: Callable[[], torch.Tensor]) -> Callable[[], Any]:
    def run() -> Any:
        with torch.no_grad():
            z = noise()
            for step in (1.0, 0.5):
                z = z - 0.1 * step * net(z)
            return z

    return run


def _drawn(one: Callable[[], torch.Tensor], other: Callable[[], torch.Tensor]) -> Pair:
    net = _network()
    return _denoised(net, one), _denoised(net, other)


def size() -> Pair:
    """One image of a batch of two: the CPU draws other numbers below 16 elements."""
    return _drawn(lambda: torch.randn(1, 8, generator=_generator()), lambda: torch.randn(2, 8, generator=_generator()))


def dtype() -> Pair:
    """Noise drawn in bfloat16 and widened."""
    return _drawn(
        lambda: torch.randn(8, 8, generator=_generator()),
        lambda: torch.randn(8, 8, generator=_generator(), dtype=torch.bfloat16).float(),
    )


def wide() -> Pair:
    """Noise drawn in float64 and rounded."""
    return _drawn(
        lambda: torch.rand(8, 8, generator=_generator()),
        lambda: torch.rand(8, 8, generator=_generator(), dtype=torch.float64).float(),
    )


def state() -> Pair:
    """The generator was used once more before."""

    def late() -> torch.Tensor:
        generator = _generator()
        torch.randn(3, generator=generator)
        return torch.randn(8, 8, generator=generator)

    return _drawn(lambda: torch.randn(8, 8, generator=_generator()), late)


def order() -> Pair:
    """Two draws of one generator, used in each other's place."""
    net = _network()

    def run(swapped: bool) -> Any:
        generator = _generator()
        one, other = torch.randn(4, 8, generator=generator), torch.randn(4, 8, generator=generator)
        noise, mask = (other, one) if swapped else (one, other)
        with torch.no_grad():
            return net(noise) + mask

    return lambda: run(False), lambda: run(True)


def flat() -> Pair:
    """The same numbers, drawn in another shape."""
    return _drawn(
        lambda: torch.randn(64, generator=_generator()).view(4, 16)[:, :8],
        lambda: torch.randn(4, 16, generator=_generator())[:, :8],
    )


def scaled() -> Pair:
    """The same numbers, a little larger."""
    return _drawn(
        lambda: torch.randn(8, 8, generator=_generator()), lambda: 1.1 * torch.randn(8, 8, generator=_generator())
    )


def rows() -> Pair:
    """From sixteen numbers on a smaller draw is the beginning of a larger one."""
    return _drawn(
        lambda: torch.randn(2, 16, generator=_generator())[:, :8],
        lambda: torch.randn(3, 16, generator=_generator())[:, :8],
    )
