"""What enters a run on its way, from numpy or as positions: pairs of callables, each named after what is wrong, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def _through_numpy(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> Pair:
    torch.manual_seed(0)
    first, second, x = nn.Linear(8, 16), nn.Linear(16, 4), torch.randn(3, 8)

    def run(change: Callable[[Any], Any]) -> Any:
        with torch.no_grad():
            return second(torch.from_numpy(change(first(x).numpy())))

    return lambda: run(one), lambda: run(other)


def factor() -> Pair:
    """Features are scaled in numpy on one side."""
    return _through_numpy(lambda h: h * 1.0, lambda h: h * 1.5)


def sorted_rows() -> Pair:
    """Features are sorted in numpy on one side."""
    return _through_numpy(lambda h: h.copy(), lambda h: np.sort(h, 0))


def copied() -> Pair:
    """Another spelling of the same in numpy."""
    return _through_numpy(lambda h: h * 1.0, lambda h: np.ascontiguousarray(h) + 0)


def numpy_mask() -> Pair:
    """Positions to hide, drawn by two of numpy's generators."""
    torch.manual_seed(0)
    layer, x = nn.Linear(10, 4), torch.randn(4, 10)

    def run(drawn: Any) -> Any:
        with torch.no_grad():
            return layer(x.masked_fill(torch.from_numpy(drawn < 0.3), 0.0))

    return (
        lambda: run(np.random.RandomState(7).random_sample((4, 10))),
        lambda: run(np.random.default_rng(7).random((4, 10))),
    )


def weight_before() -> Pair:
    """A weight differs, and numpy takes up what it made."""
    torch.manual_seed(0)
    one, other, last, x = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 4), torch.randn(3, 8)

    def run_with(first: nn.Module) -> Callable[[], Any]:
        def run() -> Any:
            with torch.no_grad():
                return last(torch.from_numpy(first(x).numpy() * 2.0))

        return run

    return run_with(one), run_with(other)


class _Encoder(nn.Module):
    """Tokens and learned positions that begin behind the index of padding."""

    def __init__(self, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.words, self.places, self.layer = nn.Embedding(50, 16), nn.Embedding(20, 16), nn.Linear(16, 4)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        if positions is None:
            kept = (ids != self.padding).int()
            positions = kept.cumsum(-1).long() * kept + self.padding
        return self.layer(torch.tanh(self.words(ids) + self.places(positions)))


def positions(first: int) -> Pair:
    """Positions given from ``first`` on; the model's own begin at 2."""
    torch.manual_seed(0)
    model, ids = _Encoder(1).eval(), torch.randint(5, 50, (2, 10))

    def run(given: torch.Tensor | None) -> Any:
        with torch.no_grad():
            return model(ids, given)

    return lambda: run(None), lambda: run(torch.arange(first, first + 10)[None].expand(2, -1))
