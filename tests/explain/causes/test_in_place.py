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
def test_a_factor_in_place_at_another_point_is_one_step_that_is_moved(reference: Any, candidate: Any) -> None:
    found = whydiff.compare(reference, candidate)
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO008", "confirmed")]
    assert "at another place" in found.causes[0].says


def test_a_factor_of_one_at_another_point_changes_nothing() -> None:
    assert whydiff.compare(_moved(True, 1.0), _moved(False, 1.0)).verdict is Verdict.IDENTICAL


def test_what_is_returned_and_written_over_is_still_named() -> None:
    found = whydiff.compare(_kept(True), _kept(False))
    assert [(cause.code, cause.status) for cause in found.causes] == [("IN005", "confirmed")]


class _Residual(torch.nn.Module):
    """Hidden states are collected, and the stream goes on in memory of its own or in theirs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        states = [x * 2]
        for layer in self.layers:
            states.append(self.added(states[-1], torch.tanh(layer(states[-1]))))
        return states

    def added(self, stream: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return stream + more


class _InPlace(_Residual):
    def added(self, stream: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        stream += more
        return stream


class _Asked(_Residual):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.inplace = inplace

    def added(self, stream: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        return stream.add_(more) if self.inplace else stream + more


def _quiet(run: Any, *args: Any) -> Any:
    def call() -> Any:
        with torch.no_grad():
            return run(*args)

    return call


def _activated(inplace: bool) -> Any:
    def run() -> Any:
        features = X @ W
        return torch.nn.functional.relu(features, inplace=inplace), features

    return _quiet(run)


def _normed_twice(inplace: bool) -> Any:
    """One image is normalised and read, then its mirror image."""

    def normed(image: torch.Tensor) -> torch.Tensor:
        return image.sub_(0.5).div_(0.2) if inplace else image.sub(0.5).div(0.2)

    def run() -> Any:
        image = X.clone()
        return normed(image) @ W + normed(image.flip(-1)) @ W

    return _quiet(run)


PAIRS = {
    "states": (_quiet(_Residual(), X), _quiet(_InPlace(), X)),
    "activation": (_activated(False), _activated(True)),
    "read twice": (_normed_twice(False), _normed_twice(True)),
    "by a setting": (_quiet(_Asked(False), X), _quiet(_Asked(True), X)),
}


@pytest.mark.parametrize("turned", [False, True], ids=["candidate", "reference"])
@pytest.mark.parametrize("which", PAIRS)
def test_the_same_op_in_place_shares_memory_and_is_no_other_function(which: str, turned: bool) -> None:
    sides = PAIRS[which][::-1] if turned else PAIRS[which]
    found = whydiff.compare(*sides)
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("IN005", "confirmed")]
    assert f"memory is shared in the {'reference' if turned else 'candidate'}" in found.causes[0].says


def _changed(change: Any, factor: float = 1.0) -> Any:
    return _quiet(lambda: change(X @ W) * factor @ W.mT)


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (_changed(torch.relu), _changed(torch.relu_)),
        (_kept(True), _kept(True)),
        (_quiet(lambda: [(X @ W).clone()]), _quiet(lambda: [X @ W])),
        (_changed(lambda y: y.mul(0.5)), _changed(lambda y: y.mul_(0.5))),
    ],
    ids=["nobody reads it", "both copy", "a view for a copy", "a factor"],
)
def test_a_value_that_nobody_needs_may_be_written_over(reference: Any, candidate: Any) -> None:
    found = whydiff.compare(reference, candidate)
    assert found.verdict is Verdict.IDENTICAL
    assert not found.causes


@pytest.mark.parametrize(
    ("reference", "candidate", "code"),
    [
        (_changed(lambda y: y.mul(0.5)), _changed(lambda y: y.mul_(0.25)), "FO003"),
        (_changed(lambda y: y.mul_(0.5)), _changed(lambda y: y.mul(0.25)), "FO003"),
        (_changed(torch.relu), _changed(torch.sigmoid_), "FO001"),
        (
            _changed(lambda y: torch.nn.functional.leaky_relu(y, 0.01)),
            _changed(lambda y: torch.nn.functional.leaky_relu(y, 0.2, inplace=True)),
            "FO008",
        ),
    ],
    ids=["factor", "factor of the copy", "activation", "slope"],
)
def test_another_function_in_place_is_another_function(reference: Any, candidate: Any, code: str) -> None:
    found = whydiff.compare(reference, candidate)
    assert found.verdict is Verdict.SEMANTIC
    assert [cause.code for cause in found.causes] == [code]
    assert "leaky_relu_" not in found.causes[0].evidence[0].statement  # the slope is what differs


def test_what_memory_of_a_narrow_dtype_rounds_is_not_refuted() -> None:
    shift = torch.randn(5, generator=torch.Generator().manual_seed(1))

    def run(inplace: bool) -> Any:
        narrow = (X @ W).half()
        return (narrow.add_(shift) if inplace else narrow + shift).float() @ W.mT

    found = whydiff.compare(_quiet(run, False), _quiet(run, True))
    assert found.verdict is Verdict.PRECISION
    assert [cause.code for cause in found.causes if cause.status != "refuted"] == ["PR002"]
