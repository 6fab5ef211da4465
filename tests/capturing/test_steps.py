"""A capture at the level of steps: what it leaves, and that the program does not hear of it."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tests import process_state

import whydiff
from whydiff.capturing.steps import StepWriter, read_steps
from whydiff.errors import UnsupportedError, UsageError
from whydiff.records import Verdict

torch = pytest.importorskip("torch")


def train(steps: int = 3, rate: float = 0.1, *, stops: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.full((2, 8), float(step))).square().sum().backward()
        optimizer.step()
        if stops and step == 1:
            raise ValueError("no rows are left")
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_log_holds_every_step_and_leaves_the_program_as_it_is(tmp_path: Path) -> None:
    plain, before = train(), process_state.of_torch()
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        found = train()
    assert all(torch.equal(one, other) for one, other in zip(plain, found, strict=True))
    assert process_state.of_torch() == before
    log = read_steps(tmp_path / "run.trace")
    assert log.complete
    assert [step.number for step in log.steps] == [0, 1, 2, 3]  # the last: how it left the parameters
    assert log.steps[0].forms == ("float32[4, 8]", "float32[4]")
    assert len({step.weights for step in log.steps}) == 4
    assert [bool(step.batch) for step in log.steps] == [
        False,
        True,
        True,
        False,
    ]  # a model is known after its first step


def test_two_logs_are_compared_as_two_programs_are(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.1), ("c", 0.101)):
        with whydiff.capture(tmp_path / name, level="step"):
            train(rate=rate)
    same = whydiff.compare_training(tmp_path / "a", tmp_path / "b")
    assert (same.verdict, same.parting) == (Verdict.IDENTICAL, None)
    parted = whydiff.compare_training(tmp_path / "a", tmp_path / "c")
    assert parted.parting is not None
    assert parted.verdict is Verdict.INCONCLUSIVE


def test_a_program_that_raises_leaves_its_steps_and_with_what_it_ended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no rows"), whydiff.capture(tmp_path / "run.trace", level="step"):
        train(stops=True)
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, len(log.steps)) == (False, 3)
    assert "no rows are left" in log.note


def test_a_full_disk_ends_the_log_and_not_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    line = StepWriter._line

    def full(self: StepWriter, fields: Any) -> None:
        written.append(1)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        line(self, fields)

    monkeypatch.setattr(StepWriter, "_line", full)
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, len(log.steps)) == (False, 1)


def test_a_step_that_cannot_be_looked_at_is_told_and_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whydiff.capturing.adapters.torch.training import watching

    monkeypatch.delenv("WHYDIFF_RAISE", raising=False)
    monkeypatch.setattr(watching, "random_digests", lambda: 1 / 0)
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, log.steps) == (False, ())
    assert "ZeroDivisionError" in log.note


def test_nothing_is_overwritten_unless_it_is_a_log_and_asked_for(tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    with pytest.raises(UsageError, match=r"steps\.jsonl"), whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    with whydiff.capture(tmp_path / "run.trace", level="step", overwrite=True):
        train(steps=1)
    assert len(read_steps(tmp_path / "run.trace").steps) == 2
    (tmp_path / "run.trace" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError), whydiff.capture(tmp_path / "run.trace", level="step", overwrite=True):
        train()


def test_a_framework_without_steps_says_so(tmp_path: Path) -> None:
    with (
        pytest.raises(UnsupportedError, match="step by step"),
        whydiff.capture(tmp_path / "run.trace", level="step", framework="jax"),
    ):
        pass
