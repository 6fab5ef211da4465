"""Steps in place in another order are one cause, as functions and as scripts; a step left out or another step is none of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff


def training(kind: Any, *, early: bool, share: float = 0.1, skips: int = -1) -> Callable[[], Any]:
    """An average of the weights, moved before or behind the optimizer's step."""

    def run() -> Any:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        average = [p.detach().clone() for p in model.parameters()]
        optimizer = kind(model.parameters(), lr=0.1)
        for step, (x, y) in enumerate(zip(torch.randn(2, 8, 6), torch.randn(2, 8, 2), strict=True)):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            if not early:
                optimizer.step()
            for kept, p in zip(average if step != skips else [], model.parameters(), strict=False):
                kept.mul_(1 - share).add_(p.detach(), alpha=share)
            if early:
                optimizer.step()
        return average

    return run


def causes(reference: Any, candidate: Any) -> list[tuple[str, str]]:
    return [(c.code, c.status) for c in whydiff.compare(reference, candidate).causes if c.status == "confirmed"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_an_average_before_the_step(kind: Any, turned: bool) -> None:
    sides = [training(kind, early=False), training(kind, early=True)]
    assert causes(*(sides[::-1] if turned else sides)) == [("TR005", "confirmed")]


def test_of_two_scripts(tmp_path: Path) -> None:
    for name, early in (("one", False), ("other", True)):
        with whydiff.capture(tmp_path / name):
            training(torch.optim.SGD, early=early)()
    assert causes(tmp_path / "one", tmp_path / "other") == [("TR005", "confirmed")]


@pytest.mark.parametrize("other", [{"share": 0.2}, {"skips": 1}])
@pytest.mark.parametrize("early", [False, True])
def test_another_share_or_a_step_left_out_is_not_told_as_an_order(other: dict[str, Any], early: bool) -> None:
    found = causes(training(torch.optim.SGD, early=False), training(torch.optim.SGD, early=early, **other))
    assert "TR005" not in [code for code, _ in found]
