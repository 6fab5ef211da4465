"""Weights that numpy writes during a recorded script: where, on which side, and that it is no precision and not identical."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whydiff
from whydiff.records import Diagnosis, Verdict
from whydiff.records.hole import OUTSIDE
from whydiff.report.answer import answer

Write = Callable[[Any], None]


def scaled(by: float) -> Write:
    def write(array: Any) -> None:
        array[0] *= by

    return write


def train(write: Write, after: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(7)
    x, w, v = torch.randn(16, 12), torch.randn(12, 20) * 0.3, torch.randn(20, 4) * 0.3
    w.requires_grad_()
    for step in range(6):
        loss = (torch.tanh(x @ w) @ v).square().mean()
        loss.backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
            w.grad = None
            if step == after:
                write(w.numpy())
    return x, w, v


def compared(folder: Path, reference: Write, candidate: Write, after: int) -> Diagnosis:
    for name, write in (("reference", reference), ("candidate", candidate)):
        with whydiff.capture(folder / name):
            left = train(write, after)
        del left
    return whydiff.compare(folder / "reference", folder / "candidate")


@pytest.mark.parametrize("after", [2, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_a_write_on_one_side(after: int, turned: bool, tmp_path: Path) -> None:
    sides = [scaled(1.0), scaled(1.05)]
    diagnosis = compared(tmp_path, *(sides[::-1] if turned else sides), after)
    (cause,) = diagnosis.causes
    assert diagnosis.verdict is Verdict.SEMANTIC and (cause.code, cause.status) == ("FO007", "located")
    assert OUTSIDE in cause.site
    side = "reference" if turned else "candidate"
    assert f"memory of the {side} is written outside torch here" in answer(diagnosis).headline


@pytest.mark.parametrize("after", [2, 5])
def test_other_values_on_both_sides_are_proven_both_ways(after: int, tmp_path: Path) -> None:
    diagnosis = compared(tmp_path, scaled(0.9), scaled(1.05), after)
    (cause,) = diagnosis.causes
    assert diagnosis.verdict is Verdict.SEMANTIC and (cause.code, cause.status) == ("IN001", "confirmed")
    assert len(cause.experiments) == 2 and all(one.after == 0 for one in cause.experiments)


def test_the_same_write_rounded_otherwise_is_rounding(tmp_path: Path) -> None:
    def one(array: Any) -> None:
        array *= np.float32(1.1)

    def other(array: Any) -> None:
        array += np.float32(0.1) * array

    assert compared(tmp_path, one, other, 2).verdict is Verdict.ROUNDING


@pytest.mark.parametrize("write", [scaled(1.0), scaled(1.05)])
def test_the_same_write_on_both_sides_is_no_difference(write: Write, tmp_path: Path) -> None:
    diagnosis = compared(tmp_path, write, write, 2)
    assert diagnosis.verdict is Verdict.IDENTICAL and not diagnosis.causes


def test_a_write_of_the_whole_by_one_factor_is_no_factor_of_an_op(tmp_path: Path) -> None:
    def whole(by: float) -> Write:
        def write(array: Any) -> None:
            array *= by

        return write

    diagnosis = compared(tmp_path, whole(1.0), whole(1.25), 2)
    assert {(cause.code, cause.status) for cause in diagnosis.causes} == {("FO007", "located")}
    assert "written outside torch" in answer(diagnosis).headline


def test_a_batch_that_is_filled_again_before_the_backward_pass_adds_no_gradients(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((4, 8, 6)).astype(np.float32)

    def train_on(copied: bool) -> torch.Tensor:
        weight = torch.linspace(-1, 1, 12).view(6, 2).requires_grad_()
        buffer = data[0].copy()
        for step in range(3):
            batch = torch.from_numpy(buffer.copy() if copied else buffer)
            loss = torch.tanh(batch @ weight).square().mean()
            buffer[:] = data[step + 1]
            loss.backward()
            with torch.no_grad():
                weight -= 0.1 * weight.grad
                weight.grad = None
        return weight

    for copied in (True, False):
        with whydiff.capture(tmp_path / str(copied)):
            left = train_on(copied)
        del left
    diagnosis = whydiff.compare(tmp_path / "True", tmp_path / "False")
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert "written outside torch" in answer(diagnosis).headline
    assert not any("adds gradients" in cause.says for cause in diagnosis.causes)
