"""Ops in place: a step of one side alone, or moved, is not what writes over a value that somebody still needs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

torch.manual_seed(4)
W, X, GOAL = torch.randn(6, 5), torch.randn(8, 6), torch.randn(8, 5)


def _clipped(unscaled_first: bool) -> Any:
    """Two steps with a scaled loss; gradients are clipped after or before the scale is removed."""

    def run() -> Any:
        weight = W.clone().requires_grad_()
        optimizer = torch.optim.SGD([weight], lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            ((X @ weight - GOAL).square().mean() * 512).backward()
            assert weight.grad is not None
            if unscaled_first:
                weight.grad.div_(512)
            torch.nn.utils.clip_grad_norm_([weight], 0.1)
            if not unscaled_first:
                weight.grad.div_(512)
            optimizer.step()
        return weight.detach()

    return run


def _moved(first: bool, factor: float) -> Any:
    def run() -> Any:
        y = X @ W
        if first:
            y.mul_(factor)
        y.clamp_(-1, 1)
        if not first:
            y.mul_(factor)
        return y @ W.mT

    return run


def _kept(copied: bool) -> Any:
    """Features that are returned beside what is made of them in place."""

    def run() -> Any:
        features = X @ W
        returned = features.clone() if copied else features
        return returned, torch.relu_(features) @ W.mT

    return run


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [(_clipped(True), _clipped(False)), (_moved(True, 4.0), _moved(False, 4.0))],
    ids=["clipping", "clamping"],
)
def test_a_factor_in_place_at_another_point_is_two_factors(reference: Any, candidate: Any) -> None:
    found = whydiff.compare(reference, candidate)
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")] * 2


def test_a_factor_of_one_at_another_point_changes_nothing() -> None:
    assert whydiff.compare(_moved(True, 1.0), _moved(False, 1.0)).verdict is Verdict.IDENTICAL


def test_what_is_returned_and_written_over_is_still_named() -> None:
    found = whydiff.compare(_kept(True), _kept(False))
    assert [(cause.code, cause.status) for cause in found.causes] == [("IN005", "confirmed")]
