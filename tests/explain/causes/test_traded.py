"""Modules that hold each other's tensors are one cause; tensors that were copied or changed on the way are not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from whydiff.pipeline import compare
from whydiff.records import Cause

X = torch.linspace(-1, 1, 32).reshape(4, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean = torch.rand(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.down(torch.tanh(self.up(x))))


def found(change: Callable[[Any], None], count: int = 3) -> list[Cause]:
    torch.manual_seed(0)
    reference = nn.Sequential(*(Block() for _ in range(count))).eval()
    candidate = copy.deepcopy(reference)
    with torch.no_grad():
        change(candidate)
    return list(compare(reference, candidate, X).causes)


def swapped(model: Any) -> None:
    model[0], model[2] = model[2], model[0]


def rotated(model: Any) -> None:
    model[0], model[1], model[2] = model[1], model[2], model[0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (swapped, "modules 0 and 2 hold each other's tensors in the candidate"),
        (rotated, "modules 0, 1 and 2 hold each other's tensors in the candidate"),
    ],
)
def test_layers_in_another_order_are_one_cause(change: Callable[[Any], None], says: str) -> None:
    (cause,) = found(change)
    assert (cause.code, cause.status, cause.says) == ("ST001", "confirmed", says)
    assert {e.direction: e.left for e in cause.experiments} == {"take_away": "nothing", "put_in": "nothing"}


def test_buffers_alone_are_the_buffers_cause() -> None:
    def change(model: Any) -> None:
        model[0].norm.running_mean, model[1].norm.running_mean = model[1].norm.running_mean, model[0].norm.running_mean

    (cause,) = found(change)
    assert (cause.code, cause.status) == ("ST002", "confirmed")
    assert cause.says == "modules 0 and 1 hold each other's tensors in the candidate"


def test_what_else_differs_is_a_cause_of_its_own() -> None:
    def change(model: Any) -> None:
        swapped(model)
        model[1].down.bias.add_(0.5)

    traded, other = sorted(found(change), key=lambda cause: len(cause.interventions), reverse=True)
    assert "each other's" in traded.says and other.site == "1.down.bias"
    assert traded.status == other.status == "confirmed"


def test_two_pairs_are_two_causes() -> None:
    def change(model: Any) -> None:
        swapped(model)
        model[1], model[3] = model[3], model[1]

    assert [cause.says.partition(" hold")[0] for cause in sorted(found(change, 4), key=lambda one: one.says)] == [
        "modules 0 and 2",
        "modules 1 and 3",
    ]


def copied(model: Any) -> None:
    model[2].up.load_state_dict(model[0].up.state_dict())


def changed(model: Any) -> None:
    model[0].up, model[2].up = model[2].up, model[0].up
    for layer in (model[0], model[2]):
        for tensor in layer.up.parameters():
            tensor.mul_(1.5)


@pytest.mark.parametrize("change", [copied, changed])
def test_what_is_lost_or_changed_has_not_changed_places(change: Callable[[Any], None]) -> None:
    causes = found(change)
    assert causes and not any("each other's" in cause.says for cause in causes)
