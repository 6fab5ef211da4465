"""Another mode in two recorded runs, of which neither can be run again: its ops are proven by replay, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Diagnosis, Verdict

X = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))


def net(middle: Any, activation: Any = torch.nn.ReLU) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(12, 16), middle, activation(), torch.nn.Linear(16, 4)).eval()


def compared(folder: Path, reference: Any, candidate: Any) -> Diagnosis:
    for name, model in (("reference", reference), ("candidate", candidate)):
        torch.manual_seed(1)
        with torch.no_grad(), whydiff.capture(folder / name):
            model(X)
    return whydiff.compare(folder / "reference", folder / "candidate")


@pytest.mark.parametrize("middle", [lambda: torch.nn.Dropout(0.3), lambda: torch.nn.BatchNorm1d(16)])
@pytest.mark.parametrize("trained", ["reference", "candidate"])
def test_a_mode_is_proven_by_the_ops_that_follow_from_it(tmp_path: Path, middle: Any, trained: str) -> None:
    sides = {name: net(middle()) for name in ("reference", "candidate")}
    sides[trained].train()
    found = compared(tmp_path, **sides)
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("MD001", "confirmed")]
    assert all(experiment.after == 0 for experiment in found.causes[0].experiments)


def test_another_activation_beside_a_mode_is_both(tmp_path: Path) -> None:
    found = compared(tmp_path, net(torch.nn.BatchNorm1d(16)), net(torch.nn.BatchNorm1d(16), torch.nn.GELU).train())
    assert {(cause.code, cause.status) for cause in found.causes} == {("MD001", "confirmed"), ("FO001", "confirmed")}


@pytest.mark.parametrize("other", ["activation", "weight"])
def test_a_mode_that_no_op_asks_for_is_not_confirmed_beside_something_else(tmp_path: Path, other: str) -> None:
    candidate = net(torch.nn.LayerNorm(16), torch.nn.GELU if other == "activation" else torch.nn.ReLU).train()
    if other == "weight":
        with torch.no_grad():
            candidate[0].weight[0, 0] += 0.5
    found = compared(tmp_path, net(torch.nn.LayerNorm(16)), candidate)
    confirmed = [cause.code for cause in found.causes if cause.status == "confirmed"]
    assert confirmed == ["FO001" if other == "activation" else "ST001"]


class Noisy(torch.nn.Module):
    """Draws whatever its mode is."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.share * torch.randn_like(x) if self.share else x


def test_what_another_setting_draws_is_not_the_mode_s(tmp_path: Path) -> None:
    found = compared(tmp_path, net(Noisy(0.0)), net(Noisy(0.1)).train())
    assert "MD001" not in [cause.code for cause in found.causes if cause.status == "confirmed"]
