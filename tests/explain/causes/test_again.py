"""One change at several places of a loop, with numbers given to Python in between."""

from __future__ import annotations

from pathlib import Path

import torch

import whydiff
from whydiff.records import Cause, Diagnosis, Verdict

INPUTS = torch.linspace(-1, 1, 64).view(8, 2, 4)


def _trained(other: bool, second: str, limit: float = 0.0) -> list[float]:
    """Six steps whose gradients are divided by a factor; the candidate divides by twice of it at step 1 and at step 4."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3, requires_grad=True)
    pair = torch.ones(2)
    factor, losses = 2.0, [0.0]
    for step in range(6):
        loss = (INPUTS[step] @ weight).square().mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        given = factor
        if step == 1 or (step == 4 and second == "again"):
            given = factor * (2 if other else 1)
        elif step == 4 and second == "of the loss":  # what the first place made of the loss decides
            given = factor * (1 if losses[-1] > limit else 2)
        elif step == 4 and second == "measured":  # another number altogether that has the same factor
            given = float(pair.sum() if other else pair.mean()) * factor
        with torch.no_grad():
            gradient.div_(given)
            weight -= 0.3 * gradient
        losses.append(loss.item())
    return losses[1:]


def _compared(tmp_path: Path, second: str, limit: float = 0.0) -> Diagnosis:
    for name, other in (("reference", False), ("candidate", True)):
        with whydiff.capture(tmp_path / name):
            _trained(other, second, limit)
    return whydiff.compare(str(tmp_path / "reference"), str(tmp_path / "candidate"))


def _factors(found: Diagnosis) -> list[Cause]:
    return [cause for cause in found.causes if cause.code == "FO003"]


def test_a_factor_that_comes_again_is_proven_though_losses_were_given_to_python_in_between(tmp_path: Path) -> None:
    found = _compared(tmp_path, "again")
    (cause,) = _factors(found)
    assert found.verdict is Verdict.SEMANTIC and cause.status == "confirmed"
    assert cause.site == ":div_#1" and {item.name for item in cause.interventions} == {"set-argument"}
    assert len(cause.interventions) == 2
    assert {one.direction: one.after for one in cause.experiments} == {"take_away": 0.0, "put_in": 0.0}


def test_a_number_that_was_measured_otherwise_in_between_is_no_factor_that_comes_again(tmp_path: Path) -> None:
    found = _compared(tmp_path, "measured")
    assert found.verdict is Verdict.SEMANTIC
    assert "confirmed" not in {cause.status for cause in _factors(found)}
    assert "replace-op" in {item.name for cause in _factors(found) for item in cause.interventions}


def test_a_later_factor_that_follows_from_the_first_is_named_with_it(tmp_path: Path) -> None:
    limit = sum(_trained(other, "again")[3] for other in (False, True)) / 2
    found = _compared(tmp_path, "of the loss", limit)
    assert found.verdict is Verdict.SEMANTIC
    confirmed = [cause for cause in found.causes if cause.status == "confirmed"]
    assert all(cause.site == ":div_#1" for cause in confirmed), "the first place is where it begins"
