"""A loss that is divided by another count in every step is one cause, however the counts change and are written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from whydiff.pipeline import compare
from whydiff.records import Verdict

COUNTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda labels: (labels != -100).sum(),
    "number": lambda labels: int((labels != -100).sum()),
    "positions": lambda labels: labels.numel(),
    "sequences": lambda labels: labels.shape[0],
}


def training(count: str, *, micro: int = 1) -> Callable[[], list[torch.Tensor]]:
    """Three steps on rows in which another number of labels counts each time."""

    def run() -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            ids, labels = torch.randint(0, 20, (6, 7)), torch.randint(0, 20, (6, 7))
            labels[torch.rand(6, 7) < 0.3] = -100
            optimizer.zero_grad()
            for part, wanted in zip(ids.chunk(micro), labels.chunk(micro), strict=True):
                total = cross_entropy(model(part).flatten(0, 1), wanted.flatten(), reduction="sum")
                (total / COUNTS[count](wanted)).backward()
            optimizer.step()
        return [parameter.detach().clone() for parameter in model.parameters()]

    return run


@pytest.mark.parametrize(
    ("ours", "theirs", "micro"),
    [
        ("number", "positions", 1),
        ("number", "sequences", 3),
        ("positions", "sequences", 1),
        ("tensor", "positions", 1),
        ("sequences", "tensor", 3),
    ],
)
def test_one_cause_for_all_steps(ours: str, theirs: str, micro: int) -> None:
    found = compare(training(ours, micro=micro), training(theirs, micro=micro))
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = found.causes
    assert (cause.code, cause.status) == ("TR001", "confirmed"), cause.reason
    assert all(experiment.left in ("nothing", "rounding") for experiment in cause.experiments)


@pytest.mark.parametrize(("ours", "theirs"), [(3.0, 5.0), (2.0, 2.5)])
def test_a_divisor_that_counts_nothing_is_another_number(ours: float, theirs: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(42, 20), torch.randint(0, 20, (42,))
    found = compare(lambda: cross_entropy(logits, labels) / ours, lambda: cross_entropy(logits, labels) / theirs)
    assert "TR001" not in {cause.code for cause in found.causes}


def test_a_penalty_s_weight_is_no_count() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(42, 20), torch.randint(0, 20, (42,))

    def loss(weight: int) -> torch.Tensor:
        return cross_entropy(logits, labels) + logits.square().mean() / weight

    found = compare(lambda: loss(6), lambda: loss(42))
    assert "TR001" not in {cause.code for cause in found.causes if cause.status == "confirmed"}
