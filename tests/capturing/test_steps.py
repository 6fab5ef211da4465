"""A capture at the level of steps: what it leaves, and that the program does not hear of it."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import process_state

import whydiff
from whydiff.capturing.steps import StepWriter, read_steps
from whydiff.errors import TraceFormatError, UnsupportedError, UsageError
from whydiff.records import Verdict

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("looked_through")


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


def test_a_model_is_copied_and_saved_as_without_a_log(tmp_path: Path) -> None:
    model = torch.nn.Linear(8, 4)
    optimizer, saved = torch.optim.SGD(model.parameters(), lr=0.1), io.BytesIO()
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        for _ in range(2):
            model(torch.ones(2, 8)).sum().backward()
            optimizer.step()
        copied = copy.deepcopy(model)  # as an average of weights begins
        torch.save(model, saved)
        copied(torch.ones(2, 8)).sum().backward()
        model(torch.ones(2, 8)).sum().backward()
        optimizer.step()
    saved.seek(0)
    assert b"whydiff" not in saved.getvalue()
    read = torch.load(saved, weights_only=False)
    assert torch.equal(read(torch.ones(2, 8)), copied(torch.ones(2, 8)))
    log = read_steps(tmp_path / "run.trace")
    assert log.complete and log.steps[1].batch == log.steps[2].batch, "a copy's inputs are no batch of the model's"


def test_two_logs_are_compared_as_two_programs_are(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.1), ("c", 0.101)):
        with whydiff.capture(tmp_path / name, level="step"):
            train(rate=rate)
    same = whydiff.compare_training(tmp_path / "a", tmp_path / "b")
    assert (same.verdict, same.parting) == (Verdict.IDENTICAL, None)
    parted = whydiff.compare_training(tmp_path / "a", tmp_path / "c")
    assert parted.parting is not None
    assert parted.verdict is Verdict.INCONCLUSIVE


def test_logs_say_which_hyperparameters_differ(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.2)):
        with whydiff.capture(tmp_path / name, level="step"):
            train(rate=rate)
    found = whydiff.compare_training(tmp_path / "a", tmp_path / "b")
    answer = dict(found.answer())
    assert answer["set"] == "0.lr is 0.1 in the reference, 0.2 in the candidate from step 0 on"
    assert answer[""].endswith("the step was not explained, but 1 hyperparameter differs")
    assert found.verdict is Verdict.INCONCLUSIVE


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


def by_a_generator() -> None:
    model = torch.nn.Linear(8, 4)
    first, second = model(torch.ones(2, 8))
    torch.autograd.backward(loss for loss in (first.sum(), second.sum()))
    assert model.weight.grad is not None
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def by_an_edge() -> None:
    model = torch.nn.Linear(8, 4)
    loss = model(torch.ones(2, 8)).sum()
    torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss), torch.ones(()))
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def by_a_complex_loss() -> None:
    model = torch.nn.Linear(8, 1, dtype=torch.complex64)
    loss = model(torch.ones(1, 8, dtype=torch.complex64))
    loss.backward(torch.ones_like(loss))
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def with_a_branch_that_is_never_taken() -> None:
    model = torch.nn.ModuleList([torch.nn.Linear(8, 4), torch.nn.LazyLinear(3)])
    model[0](torch.ones(2, 8)).sum().backward()
    torch.optim.SGD(model[0].parameters(), lr=0.1).step()


def beside_a_module_that_is_none() -> None:
    other = torch.nn.Linear.__new__(torch.nn.Linear)
    train(1)
    assert other is not None


def on_another_default_device() -> None:
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = torch.ones(2, 8)
    with torch.device("meta"):
        model(rows).sum().backward()
        optimizer.step()


def with_another_generator_of_numpy() -> None:
    import numpy as np

    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        train(1)
    finally:
        np.random.set_bit_generator(before)


def compiled() -> None:
    model = torch.nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(2, 8)).sum().backward()
    torch.compile(optimizer.step, backend="eager")()


@pytest.mark.parametrize(
    "program",
    [
        by_a_generator,
        by_an_edge,
        by_a_complex_loss,
        with_a_branch_that_is_never_taken,
        beside_a_module_that_is_none,
        on_another_default_device,
        with_another_generator_of_numpy,
        compiled,
    ],
)
def test_programs_of_many_kinds_run_and_are_followed(tmp_path: Path, program: Callable[[], None]) -> None:
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        program()
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, log.note, [step.number for step in log.steps]) == (True, "", [0, 1])


def test_a_capture_within_a_capture_follows_its_own_block_and_leaves_the_outer_one_as_it_was(tmp_path: Path) -> None:
    before = torch.autograd.backward
    with whydiff.capture(tmp_path / "outer", level="step"):
        train(1)
        with whydiff.capture(tmp_path / "inner", level="step"):
            train(2)
        train(1)
    assert torch.autograd.backward is before
    assert [len(read_steps(tmp_path / name).steps) for name in ("outer", "inner")] == [5, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_writes_nothing_into_its_parents_log(tmp_path: Path) -> None:
    parent = os.getpid()
    try:
        with whydiff.capture(tmp_path / "run.trace", level="step"):
            train(1)
            child = os.fork()
            if not child:
                train(2)
                raise SystemExit
            os.waitpid(child, 0)
            train(1)
    finally:
        if os.getpid() != parent:
            os._exit(0)
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, [step.number for step in log.steps]) == (True, [0, 1, 2])


def test_what_fails_as_a_record_is_read_or_written_is_not_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from whydiff.capturing.adapters.torch.training import watching

    monkeypatch.delenv("WHYDIFF_RAISE", raising=False)
    monkeypatch.setattr(watching.Digests, "read", lambda self: 1 / 0)
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, log.steps) == (False, ())
    assert "ZeroDivisionError" in log.note


def test_nothing_is_read_while_a_graph_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff.capturing.adapters.torch.training import watching

    monkeypatch.setattr(watching, "_in_graph", lambda: True)
    monkeypatch.setattr(watching, "random_digests", lambda: 1 / 0)
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train()
    log = read_steps(tmp_path / "run.trace")
    assert (log.complete, log.steps) == (False, ())
    assert "CUDA graph" in log.note


def test_a_log_is_no_trace_and_what_reads_it_is_said(tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train(1)
    with pytest.raises(TraceFormatError, match="whydiff training A B") as caught:
        whydiff.compare(tmp_path / "run.trace", tmp_path / "run.trace")
    assert "a log of steps, not a trace" in str(caught.value) and "whydiff ranks" in caught.value.next_step


def test_an_option_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nonsense"), whydiff.capture(tmp_path / "t", level="step", nonsense=1):
        train()


@pytest.mark.parametrize("field", ["number", "share", "seconds", "losses"])
def test_a_number_that_nothing_counted_is_refused(field: str, tmp_path: Path) -> None:
    with whydiff.capture(tmp_path / "run.trace", level="step"):
        train(steps=1)
    path = tmp_path / "run.trace" / "steps.jsonl"
    header, first, *rest = path.read_text().splitlines()
    large = json.loads(first) | {field: [10**400] if field == "losses" else 10**400}
    path.write_text("\n".join([header, json.dumps(large), *rest]))
    with pytest.raises(TraceFormatError, match="not as whydiff writes it"):
        read_steps(tmp_path / "run.trace")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "steps.jsonl")
    with pytest.raises(TraceFormatError, match="no log of steps"):
        read_steps(tmp_path)
