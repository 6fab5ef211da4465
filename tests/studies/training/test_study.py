"""What a comparison of two training runs asks of the process that it runs in."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from whydiff.capturing.adapters.torch.training import following
from whydiff.studies.training import TrainingOptions, compare_training


def trained(rate: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for rows in torch.randn(3, 4, 3):
        optimizer.zero_grad()
        model(rows).square().mean().backward()
        optimizer.step()


def test_what_exists_before_is_looked_through_once_for_both_runs_and_all_reruns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[bool] = []
    early, objects = nn.Linear(3, 2), gc.get_objects

    def counted() -> list[object]:
        found = objects()
        looked.append(any(thing is early for thing in found))
        return found

    before = gc.get_freeze_count()
    monkeypatch.setattr(following.gc, "get_objects", counted)
    found = compare_training(lambda: trained(0.1), lambda: trained(0.2), TrainingOptions(band=2))
    first, *others = looked
    assert found.diagnosis is not None
    assert first and len(others) > 4 and not any(others), looked
    assert gc.get_freeze_count() == before
