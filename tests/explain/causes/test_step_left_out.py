"""A step that finds its factor in the run and is left out: the step, whatever it multiplies, and never a constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Diagnosis
from whydiff.report.answer import answer


def compared(folder: Path, decay: float, foreach: bool) -> Diagnosis:
    for name, clipped in (("reference", True), ("candidate", False)):
        with whydiff.capture(folder / name):
            torch.manual_seed(1)
            net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, weight_decay=0.1 if clipped else decay)
            for _ in range(2):
                optimizer.zero_grad()
                (net(torch.linspace(-3, 3, 24).view(4, 6)) - 5).square().mean().backward()
                if clipped:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, foreach=foreach)
                optimizer.step()
    return whydiff.compare(folder / "reference", folder / "candidate")


@pytest.mark.parametrize("foreach", [True, False])
def test_clipping_that_is_left_out_is_one_step_at_all_gradients_and_in_all_steps(foreach: bool, tmp_path: Path) -> None:
    found = compared(tmp_path, 0.1, foreach)
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO007", "confirmed")]
    assert "the reference scales this by a number that it measures in the run" in answer(found).headline
    assert any("clamp" in site for site in found.causes[0].evidence[0].data["ops"])


def test_a_second_mistake_beside_it_is_named_too(tmp_path: Path) -> None:
    found = compared(tmp_path, 0.3, True)
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO007", "confirmed"), ("TR003", "confirmed")]


def test_a_constant_factor_stays_one() -> None:
    x, w = torch.linspace(-1, 1, 32).view(4, 8), torch.linspace(1, 2, 24).view(8, 3)
    found = whydiff.compare(lambda: torch.tanh(x * torch.tensor(3.0).sqrt() @ w), lambda: torch.tanh(x @ w))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")]


@pytest.mark.parametrize("pick", [lambda w: w[torch.tensor([1])], lambda w: torch.take(w, torch.tensor(1))])
def test_a_stored_number_that_is_looked_up_is_not_measured(pick: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x, w, head = (
        torch.linspace(-1, 1, 32).view(4, 8),
        torch.tensor([0.5, 1.7, 3.0]),
        torch.linspace(1, 2, 24).view(8, 3),
    )
    found = whydiff.compare(lambda: x * pick(w) @ head, lambda: x @ head)
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")]


@pytest.mark.parametrize("turned", [False, True])
def test_a_round_that_is_left_out_is_one_missing_update(turned: bool) -> None:
    def train(left_out: int) -> Any:
        def run() -> Any:
            torch.manual_seed(0)
            model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step, (x, y) in enumerate(zip(torch.randn(3, 8, 6), torch.randn(3, 8, 2), strict=True)):
                if step != left_out:
                    optimizer.zero_grad()
                    torch.nn.functional.mse_loss(model(x), y).backward()
                    optimizer.step()
            return [p.detach().clone() for p in model.parameters()]

        return run

    sides = [train(-1), train(1)]
    found = whydiff.compare(*(sides[::-1] if turned else sides))
    causes = [(cause.code, cause.says) for cause in found.causes if cause.status == "confirmed"]
    lacks = "reference" if turned else "candidate"
    assert causes == [("TR004", f"the 2nd of 3 updates is missing in the {lacks} (step 1, counted from 0)")]
