"""A hyperparameter that makes an optimizer carry out other ops is the one cause of them, of two traces too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff


def train(kind: type[torch.optim.Optimizer], *decays: float, factor: float = 1.0) -> None:
    """Two steps on weights and biases in a group each; the gradients of the biases times a factor."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    parts = [[p for p in model.parameters() if (p.dim() > 1) is many] for many in (True, False)]
    groups = [{"params": p, "weight_decay": d} for p, d in zip(parts, decays, strict=True)]
    optimizer = kind(groups, lr=0.01)
    for x, y in zip(torch.randn(2, 5, 6), torch.randn(2, 5, 3), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        for p in parts[1] if factor != 1 else ():
            p.grad.mul_(factor)
        optimizer.step()


def told(tmp_path: Path, *sides: Any) -> list[tuple[str, str]]:
    for name, run in zip(("one", "other"), sides, strict=True):
        with whydiff.capture(tmp_path / name):
            run()
    found = whydiff.compare(tmp_path / "one", tmp_path / "other")
    return [(cause.code, cause.status) for cause in found.causes if cause.status == "confirmed"]


@pytest.mark.parametrize("turned", [False, True])
def test_one_cause_is_behind_ops_of_one_side(tmp_path: Path, turned: bool) -> None:
    sides = [lambda: train(torch.optim.AdamW, 0.1, 0.0), lambda: train(torch.optim.AdamW, 0.1, 0.1)]
    assert told(tmp_path, *(sides[::-1] if turned else sides)) == [("TR003", "confirmed")]


def test_coupled_and_decoupled_decay_are_one_cause(tmp_path: Path) -> None:
    sides = (lambda: train(torch.optim.AdamW, 0.1, 0.1)), (lambda: train(torch.optim.Adam, 0.1, 0.1))
    assert told(tmp_path, *sides) == [("TR003", "confirmed")]


def test_gradients_that_are_changed_before_it_are_not_taken_for_a_setting(tmp_path: Path) -> None:
    sides = (lambda: train(torch.optim.AdamW, 0.1, 0.1)), (lambda: train(torch.optim.AdamW, 0.1, 0.1, factor=0.5))
    assert "TR003" not in [code for code, _ in told(tmp_path, *sides)]


class Clipped(torch.optim.SGD):
    """Gradients are limited within the step."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.clamp_(-0.02, 0.02)
        return super().step(closure)


@pytest.mark.parametrize("settings", [{"lr": 0.1001}, {"lr": 0.1, "weight_decay": 0.1}])
def test_ops_that_no_setting_brings_with_it_have_another_reason(tmp_path: Path, settings: dict[str, float]) -> None:
    def stepped(kind: type[torch.optim.SGD], **settings: Any) -> None:
        torch.manual_seed(0)
        model = torch.nn.Linear(6, 3)
        optimizer = type("Own", (kind,), {})(model.parameters(), **settings)
        torch.nn.functional.mse_loss(model(torch.randn(5, 6)), torch.randn(5, 3)).backward()
        optimizer.step()

    sides = (lambda: stepped(torch.optim.SGD, lr=0.1)), (lambda: stepped(Clipped, **settings))
    assert "TR003" not in [code for code, _ in told(tmp_path, *sides)]
