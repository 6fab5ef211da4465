"""An update that one side leaves out: how it is told and proven, and what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import mse_loss

import whydiff
from whydiff.records import Cause, Diagnosis, Verdict

STEPS = 6
Change = Callable[[int], bool]


def never(step: int) -> bool:
    return False


def _trained(
    kind: str = "Adam",
    *,
    skip: Change = never,
    twice: Change = never,
    logged: bool = False,
    touched: bool = False,
    rate: Callable[[int], float] = lambda step: 0.05,
    cleared: Callable[[int], bool] = lambda step: True,
    average: Change | None = None,
) -> list[torch.Tensor]:
    """Six steps of one layer, with what a stranger's script may do beside."""
    torch.manual_seed(0)
    x, y = torch.randn(8, 5), torch.randn(8, 3)
    weight, bias = torch.randn(5, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    kept = weight.detach().clone()
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)([weight, bias], lr=0.05, **options) if kind != "plain" else None
    for step in range(STEPS):
        if optimizer is not None and cleared(step):
            optimizer.zero_grad(set_to_none=False)
            optimizer.param_groups[0]["lr"] = rate(step)
        loss = mse_loss(torch.tanh(x @ weight + bias), y)
        if logged:
            loss.detach().sqrt().item()
        loss.backward()
        for _ in range(0 if skip(step) else 2 if twice(step) else 1):
            if optimizer is not None:
                optimizer.step()
            else:
                with torch.no_grad():
                    for leaf in (weight, bias):
                        leaf.sub_(leaf.grad * rate(step))
        if optimizer is None:
            weight.grad = bias.grad = None
        if touched and step == 2:
            with torch.no_grad():
                weight.mul_(1.0)
        if average is not None and not average(step):
            kept.lerp_(weight.detach(), 0.2)
    return [weight.detach(), bias.detach(), kept]


def _compared(folder: Path, reference: Callable[[], object], candidate: Callable[[], object]) -> Diagnosis:
    for name, run in (("reference", reference), ("candidate", candidate)):
        with whydiff.capture(folder / name):
            run()
    return whydiff.compare(str(folder / "reference"), str(folder / "candidate"))


def _acting(found: Diagnosis) -> list[Cause]:
    return [cause for cause in found.causes if cause.status in ("confirmed", "located") and not cause.inert]


def _proven(found: Diagnosis) -> Cause:
    """The one cause, proven both ways to the last bit."""
    (cause,) = _acting(found)
    assert (found.verdict, cause.code, cause.status) == (Verdict.SEMANTIC, "TR004", "confirmed")
    assert {one.direction: (one.left, one.after) for one in cause.experiments} == {
        "take_away": ("nothing", 0.0),
        "put_in": ("nothing", 0.0),
    }
    return cause


@pytest.mark.parametrize("kind", ["Adam", "SGD", "plain"])
def test_a_skipped_step_is_one_cause_and_the_numbers_after_it_follow(tmp_path: Path, kind: str) -> None:
    cause = _proven(_compared(tmp_path, lambda: _trained(kind), lambda: _trained(kind, skip=lambda s: s == 3)))
    assert cause.says == "the 4th of 6 updates is missing in the candidate"
    assert {item.name for item in cause.interventions} == {"insert-step"} | (
        {"set-argument"} if kind == "Adam" else set()
    )


def test_the_reference_may_be_the_one_that_lacks_it(tmp_path: Path) -> None:
    cause = _proven(_compared(tmp_path, lambda: _trained(skip=lambda s: s == 3), _trained))
    assert cause.says == "the 4th of 6 updates is missing in the reference"


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((5,), "the 6th of 6 updates is missing in the candidate"),
        ((2, 3, 4), "3 of 6 updates are missing in the candidate: the 3rd to the 5th"),
        ((1, 4), "2 of 6 updates are missing in the candidate: the 2nd, 5th"),
    ],
)
def test_which_updates_are_missing_is_said(tmp_path: Path, steps: tuple[int, ...], said: str) -> None:
    found = _compared(tmp_path, lambda: _trained("plain"), lambda: _trained("plain", skip=lambda s: s in steps))
    assert _proven(found).says == said


def test_a_step_that_is_taken_twice_is_one_that_the_other_side_lacks(tmp_path: Path) -> None:
    cause = _proven(_compared(tmp_path, _trained, lambda: _trained(twice=lambda s: s == 3)))
    assert "of 7 updates is missing in the reference" in cause.says


def test_an_average_that_is_not_kept_along_once(tmp_path: Path) -> None:
    runs = (lambda: _trained("plain", average=never)), (lambda: _trained("plain", average=lambda s: s == 3))
    assert _proven(_compared(tmp_path, *runs)).says == "the 4th of 6 updates is missing in the candidate"


def test_nothing_reads_the_average_between_two_that_are_left_out(tmp_path: Path) -> None:
    runs = (lambda: _trained("plain", average=never)), (lambda: _trained("plain", average=lambda s: s in (3, 4)))
    assert _proven(_compared(tmp_path, *runs)).says == "2 of 6 updates are missing in the candidate: the 4th, 5th"


def test_a_skipped_step_and_another_rate_later_are_two_causes(tmp_path: Path) -> None:
    def other(step: int) -> float:
        return 0.05 if step != 4 else 0.02

    found = _compared(tmp_path, _trained, lambda: _trained(skip=lambda s: s == 2, rate=other))
    codes = [cause.code for cause in found.causes if cause.status != "refuted" and not cause.inert]
    assert found.verdict is Verdict.SEMANTIC
    assert "TR004" in codes and len(codes) > 1


# --------------------------------------------------------------------------- look-alikes


def test_what_one_side_logs_is_no_update_that_is_missing(tmp_path: Path) -> None:
    found = _compared(tmp_path, lambda: _trained(logged=True), lambda: _trained(rate=lambda s: 0.05 if s < 3 else 0.04))
    assert found.verdict is Verdict.SEMANTIC
    assert "TR004" not in {cause.code for cause in found.causes}


def test_ops_that_write_the_same_values_again_are_none(tmp_path: Path) -> None:
    found = _compared(tmp_path, lambda: _trained(touched=True), _trained)
    assert found.verdict is Verdict.IDENTICAL and not found.causes


def test_another_rate_is_none(tmp_path: Path) -> None:
    found = _compared(
        tmp_path, lambda: _trained("SGD"), lambda: _trained("SGD", rate=lambda s: 0.05 if s < 3 else 0.04)
    )
    assert found.verdict is Verdict.SEMANTIC
    assert "TR004" not in {cause.code for cause in found.causes}


def test_gradients_that_are_not_cleared_are_told_as_what_they_are(tmp_path: Path) -> None:
    found = _compared(tmp_path, lambda: _trained("SGD"), lambda: _trained("SGD", cleared=lambda s: s != 3))
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = _acting(found)
    assert "times that gradients are cleared (zero_) is missing in the candidate" in cause.says
    assert cause.remedy is not None and "zero_grad()" in cause.remedy.text


def test_both_skip_the_same_step(tmp_path: Path) -> None:
    def run(factor: float) -> list[torch.Tensor]:
        return _trained("plain", skip=lambda s: s == 2, rate=lambda s: 0.05 if s != 4 else 0.05 * factor)

    found = _compared(tmp_path, lambda: run(1.0), lambda: run(1.5))
    assert "TR004" not in {cause.code for cause in found.causes}


def test_an_update_that_was_moved_is_not_missing(tmp_path: Path) -> None:
    def run(early: bool) -> torch.Tensor:
        torch.manual_seed(0)
        x, weight, other = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4, 4)
        for step in range(4):
            first = early and step == 2
            if first:
                other.add_(weight, alpha=0.1)
            weight.sub_((x @ weight @ other).tanh() * 0.1)
            if not first:
                other.add_(weight, alpha=0.1)
        return x @ other

    found = _compared(tmp_path, lambda: run(False), lambda: run(True))
    assert found.verdict is Verdict.SEMANTIC
    assert not [cause for cause in found.causes if cause.code == "TR004" and cause.status == "confirmed"]


class _Own(torch.optim.Optimizer):
    """Plain steps, times a factor that its settings do not show."""

    factor = 1.0

    def __init__(self, weights: Any, lr: float) -> None:
        super().__init__(weights, {"lr": lr})

    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.data.add_(weight.grad, alpha=-group["lr"] * self.factor)


def _two_layers(kind: Any, *, frozen: int = -1, skipped: int = -1, factor: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, model = torch.randn(8, 5), torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    optimizer = kind(model.parameters(), lr=0.1)
    for step in range(5):
        optimizer.zero_grad()
        mse_loss(model(x), torch.ones(8, 2)).backward()
        optimizer.factor = factor if step > 2 else 1.0
        if step == frozen:
            model[2].weight.grad = model[2].bias.grad = None
        if step != skipped:
            optimizer.step()
    return [weight.detach() for weight in model.parameters()]


def test_another_constant_in_later_steps_of_the_same_settings_is_a_cause_of_its_own() -> None:
    acting = _acting(whydiff.compare(_two_layers, lambda kind: _two_layers(kind, skipped=1, factor=0.5), _Own))
    assert {cause.code for cause in acting} == {"TR004", "FO008"}
    assert all(cause.status == "confirmed" for cause in acting)


def test_whose_updates_are_missing_is_said_where_others_are_made_and_which_step_it_is() -> None:
    said = _proven(whydiff.compare(_two_layers, lambda kind: _two_layers(kind, frozen=1), torch.optim.Adam)).says
    assert said == "the 2nd of 5 updates of 2.weight, 2.bias is missing in the candidate (step 1, counted from 0)"
