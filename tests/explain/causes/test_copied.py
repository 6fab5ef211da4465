"""Memory that a run fills from other values than the ones it has come to, and copies that are no such mistake."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

torch.manual_seed(5)
W, START = torch.randn(6, 6) / 2, torch.randn(3, 6)
DATA, GOAL = torch.randn(6, 8, 4), torch.randn(6, 8, 2)


def _rounds(fill: Any) -> Any:
    """Four rounds; before the last one, what ``fill`` makes of the values so far is copied into other memory."""

    def run() -> Any:
        values = [START @ W]
        for _ in range(3):
            values.append(torch.tanh(values[-1] @ W))
        last = values[-1]
        if fill is not None:
            last = torch.zeros(3, 6)
            last.copy_(fill(values))
        return torch.tanh(last @ W) * 2

    return run


def _trained(resumed_from: str) -> Any:
    """Four steps; before the third the model is made anew, from its own weights, their average or their mean."""

    def run() -> Any:
        torch.manual_seed(0)
        model, losses = torch.nn.Linear(4, 2), []
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.3)
        average, kept = copy.deepcopy(model), []
        for number in range(4):
            if number == 2 and resumed_from:
                state = copy.deepcopy((average if resumed_from == "average" else model).state_dict())
                if resumed_from == "mean":
                    state["weight"] = torch.stack(kept).mean(0)
                model = torch.nn.Linear(4, 2)
                model.load_state_dict(state)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
            loss = torch.nn.functional.mse_loss(model(DATA[number]), GOAL[number])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for one, other in zip(model.parameters(), average.parameters(), strict=True):
                    other.lerp_(one, 0.2)
                kept.append(model.weight.clone())
            losses.append(loss.detach())
        return losses

    return run


def _named(found: Any) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes if cause.code == "ST007" and cause.status != "refuted"]


@pytest.mark.parametrize("resumed_from", ["average", "mean"])
def test_other_values_than_the_latest_are_located(resumed_from: str) -> None:
    found = whydiff.compare(_trained(""), _trained(resumed_from))
    assert found.verdict is Verdict.SEMANTIC
    assert _named(found) == [("ST007", "located")]


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(_rounds(None), _rounds(lambda values: values[3])), (_trained(""), _trained("weights"))],
    ids=["rounds", "training"],
)
def test_a_copy_of_the_latest_is_identical(reference: Any, candidate: Any) -> None:
    assert whydiff.compare(reference, candidate).verdict is Verdict.IDENTICAL


@pytest.mark.parametrize(
    "fill",
    [
        lambda values: values[3] * 0.5,
        lambda values: values[3] + torch.randn(3, 6, generator=torch.Generator().manual_seed(1)),
        lambda values: values[3].bfloat16(),
    ],
    ids=["a step on it", "noise on it", "a cast of it"],
)
def test_what_is_made_of_the_latest_alone_is_another_cause(fill: Any) -> None:
    found = whydiff.compare(_rounds(None), _rounds(fill))
    assert found.verdict in (Verdict.SEMANTIC, Verdict.PRECISION)
    assert not _named(found)
