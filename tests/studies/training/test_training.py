"""Two training runs, step by step: where they part and why, what a resumed run restored, and what is kept of a killed one."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

import whydiff
from whydiff.capturing.steps import StepRecord, StepWriter, read_steps
from whydiff.cli import app
from whydiff.records import Verdict
from whydiff.studies.training import TrainingOptions, TrainingReport, compare_training
from whydiff.studies.training.parting import Parting, Setting
from whydiff.studies.training.study import run_watched

pytestmark = pytest.mark.usefixtures("looked_through")

SCRIPT = """
import argparse
import torch, torch.nn as nn, torch.nn.functional as F

parser = argparse.ArgumentParser()
parser.add_argument("--late", action="store_true")
parser.add_argument("--steps", type=int, default=12)
options = parser.parse_args()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = torch.randn(options.steps, 4, 6)
scale = 64.0
for step in range(options.steps):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(data[step]), torch.arange(4) % 3)
    (loss * scale).backward()
    used = scale
    if step == 7:
        scale = 128.0
    for parameter in model.parameters():
        parameter.grad.div_(scale if options.late else used)
    optimizer.step()
    print(step, flush=True)
    if step == 9 and "PAUSE" in __import__("os").environ:
        __import__("time").sleep(60)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "train.py"
    path.write_text(textwrap.dedent(SCRIPT), encoding="utf-8")
    return str(path)


def trained(
    *, steps: int = 4, rate: float = 0.1, by_hand: bool = False, change: Any = None, dropout: float = 0.0
) -> Any:
    """A program that trains a small model; ``change(step, model, optimizer)`` may interfere as a step begins."""

    def program() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        data = torch.randn(steps, 4, 6)
        for step in range(steps):
            if change is not None:
                change(step, model, optimizer)
            model.zero_grad()
            F.cross_entropy(model(data[step]), torch.arange(4) % 3).backward()
            if by_hand:
                with torch.no_grad():
                    for parameter in model.parameters():
                        assert parameter.grad is not None
                        parameter.sub_(rate * parameter.grad)
            else:
                optimizer.step()

    return program


def statuses(found: TrainingReport) -> set[tuple[str, str]]:
    assert found.diagnosis is not None
    return {(cause.code, cause.status) for cause in found.diagnosis.causes}


def test_a_script_that_parts_late_is_explained_at_its_step(script: str) -> None:
    found = compare_training(script, f"{script} --late")
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (7, "gradients")
    assert found.verdict is Verdict.SEMANTIC
    assert ("FO003", "confirmed") in statuses(found)
    assert found.steps == (12, 12)
    assert [point.apart > 0 for point in found.points[:12]] == [False] * 8 + [True] * 4
    assert "step 7 of 12" in dict(found.answer())["parts"]


def test_equal_runs_are_identical_and_leave_the_process_as_it_was() -> None:
    torch.manual_seed(5)
    state, called, backward = torch.get_rng_state(), nn.Module.__call__, torch.autograd.backward
    found = compare_training(trained(dropout=0.5), trained(dropout=0.5))
    assert found.verdict is Verdict.IDENTICAL
    assert found.parting is None
    assert torch.equal(torch.get_rng_state(), state)
    assert nn.Module.__call__ is called
    assert torch.autograd.backward is backward


@pytest.mark.parametrize("by_hand", [False, True])
def test_another_rate_parts_after_the_first_update(by_hand: bool) -> None:
    found = compare_training(trained(by_hand=by_hand), trained(by_hand=by_hand, rate=0.2))
    assert found.parting is not None
    assert (found.parting.step, found.parting.what, found.parting.first) == (1, "parameters", 0)
    assert found.verdict is Verdict.SEMANTIC
    if not by_hand:
        assert statuses(found) == {("TR003", "confirmed")}


@pytest.mark.parametrize(
    ("parts", "verdict"), [((4, 4), Verdict.ROUNDING), ((2, 6), Verdict.SEMANTIC)], ids=["equal parts", "unequal parts"]
)
def test_parts_of_a_batch_are_one_step_whose_loss_is_their_sum(parts: tuple[int, int], verdict: Verdict) -> None:
    """A mean over each part is the mean over all only where the parts are equal."""

    def program(sizes: tuple[int, ...]) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in zip(torch.randn(3, 8, 6), torch.randn(3, 8, 1), strict=True):
            optimizer.zero_grad()
            for part, goal in zip(x.split(sizes), y.split(sizes), strict=True):
                (F.mse_loss(model(part), goal) / len(sizes)).backward()
            optimizer.step()

    found = compare_training(lambda: program((8,)), lambda: program(parts))
    assert found.verdict is verdict


def test_gradients_that_were_not_cleared_are_one_cause_and_are_told_as_such() -> None:
    def program(gathers_at: int) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step, x in enumerate(torch.randn(4, 8, 6)):
            if step != gathers_at:
                optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

    found = compare_training(lambda: program(-1), lambda: program(2))
    assert found.parting is not None and found.parting.step == 2
    assert statuses(found) == {("FO007", "confirmed")}
    assert found.diagnosis is not None
    (cause,) = found.diagnosis.causes
    assert cause.says == "the candidate adds gradients to those of an earlier backward pass, the reference does not"
    assert cause.remedy is not None and "zero_grad" in cause.remedy.text


def test_weights_that_are_replaced_between_two_steps_are_named() -> None:
    def replaced(step: int, model: nn.Module, optimizer: Any) -> None:
        if step == 2:
            with torch.no_grad():
                next(model.parameters()).mul_(0.5)

    found = compare_training(trained(), trained(change=replaced))
    assert found.parting is not None
    assert found.parting.step == 2
    assert statuses(found) == {("ST001", "confirmed")}


def test_lost_momentum_is_proven_in_the_step_alone() -> None:
    def lost(step: int, model: nn.Module, optimizer: Any) -> None:
        if step == 2:
            optimizer.state.clear()

    found = compare_training(trained(), trained(change=lost))
    assert found.parting is not None
    assert (found.parting.step, found.parting.first) == (3, 2)
    assert statuses(found) == {("TR002", "confirmed")}


@pytest.mark.slow
def test_a_killed_run_keeps_every_step_before(script: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    watching = (
        "import runpy, sys; from whydiff.studies.training.study import run_watched;"
        "from whydiff.capturing.steps import StepWriter; from whydiff.studies.training.programs import Script;"
        f"run_watched(Script({script!r}, []), StepWriter({str(log)!r}).add)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", watching], stderr=subprocess.PIPE, text=True, env=os.environ | {"PAUSE": "1"}
    )
    assert child.stderr is not None
    for line in child.stderr:
        if line.strip() == "9":
            break
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stderr.close()
    found = read_steps(log)
    assert not found.complete
    assert [step.number for step in found.steps] == list(range(10))


def test_logs_are_compared_without_their_programs(tmp_path: Path) -> None:
    options = TrainingOptions(log=str(tmp_path))
    live = compare_training(trained(), trained(rate=0.2), options)
    stored = compare_training(str(tmp_path / "reference"), str(tmp_path / "candidate"))
    assert stored.parting == live.parting
    assert stored.points == live.points
    assert stored.verdict is Verdict.INCONCLUSIVE
    assert "name the programs" in stored.notes[0]


def test_losses_that_are_no_numbers_are_equal_to_themselves() -> None:
    def spoiled(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 2:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))

    found = compare_training(trained(change=spoiled), trained(change=spoiled))
    assert found.verdict is Verdict.IDENTICAL
    assert found.points[2].loss != found.points[2].loss


def test_a_log_and_a_program_have_the_same_settings(tmp_path: Path) -> None:
    def paired(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["pair"] = (0.9, 0.999)

    compare_training(trained(change=paired), trained(change=paired), TrainingOptions(log=str(tmp_path)))
    found = compare_training(str(tmp_path / "reference"), trained(change=paired, rate=0.2))
    assert found.parting is not None
    settings = next(part for part in found.parting.parts if part.name == "hyperparameters")
    assert settings.differing == ("0.lr",)


def test_torch_is_as_it_was_where_the_last_step_cannot_be_kept() -> None:
    backward = torch.autograd.backward

    def full(step: StepRecord) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        run_watched(trained(steps=1, by_hand=True), full)
    assert torch.autograd.backward is backward


def test_a_log_says_what_no_optimizer_updates() -> None:
    steps: list[StepRecord] = []

    def program() -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()

    run_watched(program, steps.append)
    assert steps[0].trained == (True, True, False, False)


@pytest.mark.parametrize("made", ["before", "inside", "before and inside"])
def test_models_are_found_whenever_they_were_made_and_the_collector_is_as_it_was(made: str) -> None:
    """What the program made is looked at first; that this holds a part of what is trained must not be enough."""
    steps: list[StepRecord] = []
    early = nn.Linear(2, 2)

    def program() -> None:
        late = nn.Linear(2, 2)
        used = [early] * ("before" in made) + [late] * ("inside" in made)
        optimizer = torch.optim.SGD([p for model in used for p in model.parameters()], lr=0.1)
        nn.functional.mse_loss(nn.Sequential(*used)(torch.ones(1, 2)), torch.zeros(1, 2)).backward()
        optimizer.step()

    hidden = gc.get_freeze_count()
    run_watched(program, steps.append)
    assert gc.get_freeze_count() == hidden
    assert len(steps[0].names) == 2 * len(made.split(" and "))
    assert all(steps[0].trained)


def test_absorbed_updates_are_counted() -> None:
    def program() -> None:
        model = nn.Linear(4, 4, bias=False, dtype=torch.bfloat16)
        nn.init.constant_(model.weight, 1.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 4, dtype=torch.bfloat16)).sum().backward()
            optimizer.step()

    found = compare_training(program, program)
    assert found.points[0].absorbed == 1.0


def test_the_command_line_says_whether_they_agree(script: str) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["training", script, script]).exit_code == 0
    parted = runner.invoke(app, ["training", script, f"{script} --late", "--no-diagnose"])
    assert parted.exit_code == 1
    assert "step 7 of 12" in " ".join(parted.stdout.split())
    assert runner.invoke(app, ["training", script, "nothing.py"]).exit_code == 2


def test_what_takes_no_step_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["training", str(_idle(tmp_path)), str(_idle(tmp_path))])
    assert result.exit_code == 2


def _idle(folder: Path) -> Path:
    path = folder / "idle.py"
    path.write_text("print('nothing')\n", encoding="utf-8")
    return path


def test_rounding_alone_makes_a_band_that_another_rate_leaves() -> None:
    def parts(first: int) -> Any:
        def program() -> None:
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            data = torch.randn(4, 4, 6)
            places = torch.tensor([1, 3, 0, 2]) if first else torch.arange(4)
            for batch in data:
                optimizer.zero_grad()
                F.cross_entropy(model(batch[places]), (torch.arange(4) % 3)[places]).backward()
                optimizer.step()

        return program

    options = TrainingOptions(band=3, diagnose=False)
    benign = compare_training(parts(0), parts(1), options)
    assert benign.parting is not None
    assert benign.band is not None
    assert benign.band.leaves is None
    assert benign.band.rate == 0.25
    wrong = compare_training(trained(), trained(rate=0.101), options)
    assert wrong.band is not None
    assert wrong.band.leaves == 1
    assert "leaves the band of rounding at step 1" in dict(wrong.answer())["chaos"]


def _report(**fields: Any) -> TrainingReport:
    given = {
        "verdict": Verdict.IDENTICAL,
        "steps": (3, 3),
        "ahead": 0,
        "parting": None,
        "begins": (),
        "points": (),
        "band": None,
        "diagnosis": None,
    }
    return TrainingReport(**{**given, **fields})


def test_logs_that_end_early_or_are_empty_are_no_agreement(tmp_path: Path) -> None:
    options = TrainingOptions(log=str(tmp_path), diagnose=False)
    assert compare_training(trained(), trained(), options).verdict is Verdict.IDENTICAL
    log = read_steps(tmp_path / "candidate")
    for name, steps, complete in (("killed", log.steps, False), ("empty", (), True)):
        writer = StepWriter(tmp_path / name)
        for step in steps:
            writer.add(step)
        writer.close(complete=complete)
        found = compare_training(str(tmp_path / "reference"), str(tmp_path / name))
        assert found.verdict is Verdict.INCONCLUSIVE
        assert found.answer()[0][1].startswith("INCONCLUSIVE")


def test_hyperparameters_that_differ_are_said_where_they_first_do() -> None:
    apart = Parting(step=2, what="losses", names=(), first=1, parts=())
    planned = Setting(name="0.lr", step=1, reference=0.1, candidate=0.05, stays=False)
    lasting = Setting(name="0.nesterov", step=0, reference=False, candidate="not set", stays=True)
    found = dict(_report(verdict=Verdict.INCONCLUSIVE, parting=apart, settings=(planned, lasting)).answer())
    assert found["set"] == (
        "0.lr is 0.1 in the reference, 0.05 in the candidate at step 1; "
        "0.nesterov is False in the reference, not set in the candidate from step 0 on"
    )
    assert found[""].endswith("not explained, but 2 hyperparameters differ")
    assert "set" not in dict(_report(verdict=Verdict.INCONCLUSIVE, parting=apart).answer())


def test_a_run_that_takes_fewer_steps_says_so() -> None:
    assert "the reference takes 2 steps more" in _report(steps=(5, 3)).answer()[0][1]
    assert "more" not in _report(steps=(5, 3), ahead=2).answer()[0][1]


def test_a_step_that_agrees_by_itself_does_not_make_parted_runs_identical() -> None:
    x = torch.ones(2)
    apart = Parting(step=1, what="losses", names=(), first=1, parts=())
    found = _report(
        verdict=Verdict.INCONCLUSIVE, parting=apart, diagnosis=whydiff.compare(lambda: x + 1, lambda: x + 1)
    )
    assert found.answer()[0][1].startswith("INCONCLUSIVE")
    assert "IDENTICAL" not in str(found.answer())


def test_parameters_that_are_changed_after_the_last_step_are_told_and_nothing_raises() -> None:
    def ended(change: float) -> Any:
        def program() -> None:
            torch.manual_seed(0)
            model = nn.Linear(6, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for row in torch.randn(3, 4, 6):
                model.zero_grad()
                model(row).square().mean().backward()
                optimizer.step()
            with torch.no_grad():
                model.weight += change

        return program

    assert compare_training(ended(0.0), ended(0.0)).verdict is Verdict.IDENTICAL
    found = compare_training(ended(0.0), ended(1e-3))
    assert (found.verdict, found.parting and found.parting.what) == (Verdict.INCONCLUSIVE, "parameters")
    assert any("changed after it" in note for note in found.notes)


def test_a_run_that_ends_before_the_other_is_no_agreement_of_both() -> None:
    assert _ends_at(4).verdict is Verdict.IDENTICAL
    found = _ends_at(2)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "parameters of 2 steps are bit-equal; the reference takes 2 steps more" in found.answer()[0][1]


def _ends_at(last: int) -> TrainingReport:
    def until(steps: int) -> Any:
        def program() -> None:
            torch.manual_seed(0)
            model = nn.Linear(6, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for row in torch.randn(4, 4, 6)[:steps]:
                model.zero_grad()
                model(row).square().mean().backward()
                optimizer.step()

        return program

    return compare_training(until(4), until(last))


def test_gradients_that_no_update_reads_are_told_and_part_nothing() -> None:
    """A table that no optimizer holds is not cleared by it either: its gradients add up, and nothing comes of it."""
    from tests.scores.training_more import all_but_table, embedded, still_table

    found = compare_training(embedded(groups=still_table), embedded(groups=all_but_table))
    assert found.verdict is Verdict.IDENTICAL
    assert any("gradients of table.weight differ from step 1 on and change no" in note for note in found.notes)


def test_gradients_that_act_later_part_the_runs_where_they_differ() -> None:
    """At a rate of 0 nothing comes of the first step's gradients; of momentum something does later."""

    def program(factor: float) -> Any:
        def run() -> None:
            torch.manual_seed(0)
            model = nn.Linear(6, 3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            for step, row in enumerate(torch.randn(4, 4, 6)):
                optimizer.param_groups[0]["lr"] = 0.0 if step == 0 else 0.1
                optimizer.zero_grad()
                model(row).square().mean().backward()
                if step == 0:
                    for parameter in model.parameters():
                        assert parameter.grad is not None
                        parameter.grad.mul_(factor)
                optimizer.step()

        return run

    found = compare_training(program(1.0), program(2.0))
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (0, "gradients")
    assert found.verdict is Verdict.SEMANTIC


def test_an_update_at_another_place_is_moved_and_nothing_else_is_told() -> None:
    from tests.scores.training_more import by_hand

    def update(after: bool) -> Any:
        def run(model: nn.Module, kept: dict[str, Any]) -> None:
            for parameter in model.parameters():
                assert parameter.grad is not None
                if not after:
                    parameter.mul_(0.97)
                parameter.sub_(parameter.grad, alpha=0.1)
                if after:
                    parameter.mul_(0.97)

        return run

    found = compare_training(by_hand(update(False)), by_hand(update(True)))
    assert statuses(found) == {("FO008", "confirmed")}


def test_a_shared_weight_that_is_updated_twice_is_a_step_too_many_and_no_matter_of_memory() -> None:
    from tests.scores.training_more import tied

    found = compare_training(tied(1), tied(2))
    assert found.verdict is Verdict.SEMANTIC
    assert ("TR004", "confirmed") in statuses(found)
    assert not any(code == "IN005" for code, _ in statuses(found))


def closed(rate: float, *, clipped: bool = False, lbfgs: bool = False) -> Any:
    """A loop whose forward and backward run in a closure that the optimizer calls."""

    def program() -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        if lbfgs:
            optimizer: Any = torch.optim.LBFGS(model.parameters(), lr=rate, max_iter=3)
        else:
            optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for x in torch.randn(3, 8, 6):

            def closure(x: Any = x) -> Any:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                if clipped:
                    nn.utils.clip_grad_norm_(model.parameters(), 0.01)
                return loss

            optimizer.step(closure)

    return program


def test_steps_that_are_given_a_closure_are_followed_and_explained() -> None:
    assert compare_training(closed(1e-2), closed(1e-2)).verdict is Verdict.IDENTICAL
    found = compare_training(closed(1e-2), closed(2e-2))
    assert found.verdict is Verdict.SEMANTIC
    assert found.steps == (3, 3)
    assert statuses(found) == {("TR003", "confirmed")}
    clipped = compare_training(closed(1e-2), closed(1e-2, clipped=True), TrainingOptions(diagnose=False))
    assert clipped.parting is not None
    assert (clipped.parting.step, clipped.parting.what) == (0, "gradients")


def test_an_optimizer_that_asks_its_closure_often_takes_one_step_at_a_time() -> None:
    found = compare_training(closed(0.1, lbfgs=True), closed(0.2, lbfgs=True), TrainingOptions(diagnose=False))
    assert found.steps == (3, 3)
    assert found.parting is not None
    assert (found.parting.step, found.parting.what) == (1, "parameters")
