"""Small models of which it is known what a larger batch, length or layout does."""

from __future__ import annotations

from typing import Any

import torch


class Mixed(torch.nn.Module):
    """A linear layer whose op, for more than one row, sums in another order (on every machine)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.ops.whydiff_sweep_tests.ordered(x, self.weight)) + 1


@torch.library.custom_op("whydiff_sweep_tests::ordered", mutates_args=())
def ordered(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight; up to three rows summed forwards, above that backwards, row by row."""
    products = x.unsqueeze(-1) * weight
    if x.shape[0] > 3:
        products = products.flip(-2)
    total = torch.zeros_like(x[:, :1])
    for step in products.unbind(-2):
        total = total + step
    return total


class Normed(torch.nn.Module):
    """Batch statistics in training mode: rows really interact."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(16, 16)
        self.norm = torch.nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) * 2


class Experts(torch.nn.Module):
    """Two experts with a capacity over the whole batch: rows that come too late are dropped."""

    def __init__(self, capacity: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router = torch.nn.Linear(8, 2)
        self.experts = torch.nn.Parameter(torch.randn(2, 8, 8))
        self.capacity = capacity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(0, 1).flip(0)  # the last row is served first
        chosen = torch.nn.functional.one_hot(self.router(tokens).argmax(-1), 2)
        kept = (chosen.cumsum(0) <= self.capacity) & (chosen > 0)
        routed = torch.einsum("ni,eio->neo", tokens, self.experts)
        return (routed * kept[..., None]).sum(1).flip(0).view_as(x)


def tokens(batch: int, length: int = 6, width: int = 8) -> Any:
    """The first rows and positions are the same at every size."""
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(64, 16, width, generator=generator)[:batch, :length],)


def rows(batch: int) -> Any:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(64, 64, generator=generator)[:batch],)


def narrow_rows(batch: int) -> Any:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(64, 16, generator=generator)[:batch],)


def mixed_program() -> tuple[Any, Any]:
    """A loader for other processes."""
    return Mixed(), rows
