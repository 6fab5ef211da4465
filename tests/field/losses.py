"""Programs whose losses or softmax are normalised otherwise, after reports of people who accumulate gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Pair = tuple[Callable[[], Any], Callable[[], Any]]
UNEQUAL, EQUAL = (3, 5, 6, 4, 2, 6), (4, 4, 4, 4, 4, 4)


def _accumulated(counted: Sequence[int], parts: int, weighed: bool = False) -> Callable[[], Any]:
    """Loss and gradient of a batch of six sequences, in so many micro-batches; positions beyond the count are ignored."""
    generator = torch.Generator().manual_seed(5)
    x, labels = torch.randn(6, 6, 10, generator=generator), torch.randint(0, 9, (6, 6), generator=generator)
    for row, count in enumerate(counted):
        labels[row, count:] = -100

    def run() -> Any:
        torch.manual_seed(0)
        model, total = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 9)), torch.zeros(())
        for inputs, goal in zip(x.chunk(parts), labels.chunk(parts), strict=True):
            loss = functional.cross_entropy(model(inputs).flatten(0, 1), goal.flatten())
            loss = loss * (int((goal >= 0).sum()) / int((labels >= 0).sum()) if weighed else 1 / parts)
            loss.backward()
            total = total + loss.detach()
        return total, model[0].weight.grad

    return run


def unequal() -> Pair:
    """One mean over all labels against the mean of three micro-batches' means, of 8, 10 and 8 labels."""
    return _accumulated(UNEQUAL, 1), _accumulated(UNEQUAL, 3)


def unequal_weighed() -> Pair:
    """Benign: the micro-batches' means are weighed by their labels."""
    return _accumulated(UNEQUAL, 1), _accumulated(UNEQUAL, 3, weighed=True)


def equal() -> Pair:
    """Benign: all micro-batches have 8 labels."""
    return _accumulated(EQUAL, 1), _accumulated(EQUAL, 3)


def smoothed() -> Pair:
    """Another loss, of one batch each: labels are smoothed on one side."""
    generator = torch.Generator().manual_seed(6)
    logits, labels = torch.randn(8, 9, generator=generator), torch.randint(0, 9, (8,), generator=generator)

    def run(smoothing: float) -> Any:
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    return lambda: run(0.0), lambda: run(0.1)


def softmax_by_hand(temperature: float = 1.0) -> Pair:
    """A softmax in float32 against one whose steps are in bfloat16."""
    generator = torch.Generator().manual_seed(7)
    scores = (torch.randn(3, 8, 16, generator=generator) * 3).bfloat16()
    values = torch.randn(3, 16, 12, generator=generator).bfloat16()

    def by_hand() -> Any:
        shifted = scores * temperature - (scores * temperature).amax(-1, keepdim=True)
        weights = shifted.exp()
        return (weights / weights.sum(-1, keepdim=True)) @ values

    return lambda: scores.float().softmax(-1).bfloat16() @ values, by_hand
