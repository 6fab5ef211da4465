"""Digits that cancel make a run unstable; a region that was corrected half-way through does not."""

from __future__ import annotations

import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

GIVEN = torch.Generator().manual_seed(1)
X, Y = torch.randn(8, 6, generator=GIVEN), torch.randn(8, 2, generator=GIVEN)


def averaged(*, early: bool) -> list[torch.Tensor]:
    """Weights after three steps, as a moving average that is taken after each step, or before it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(6, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mean = [p.detach().clone() for p in model.parameters()]

    def take() -> None:
        with torch.no_grad():
            for one, p in zip(mean, model.parameters(), strict=True):
                one.mul_(0.9).add_(p, alpha=0.1)

    for _ in range(3):
        optimizer.zero_grad()
        ((model(X) - Y) ** 2).mean().backward()
        if early:
            take()
        optimizer.step()
        if not early:
            take()
    return mean


def spread(x: torch.Tensor, *, about: float) -> torch.Tensor:
    """A variance by the mean of squares, of numbers far from zero."""
    x = x + about
    return (x * x).mean(-1) - x.mean(-1) ** 2


def test_an_average_taken_too_early_is_another_function_and_in_range() -> None:
    assert compare(lambda: averaged(early=False), lambda: averaged(early=True)).verdict is Verdict.SEMANTIC


def test_a_variance_that_cancels_is_unstable() -> None:
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    found = compare(lambda: (x + 900.0).var(-1, correction=0), lambda: spread(x, about=900.0))
    assert found.verdict is Verdict.UNSTABLE
