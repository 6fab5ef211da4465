"""Arguments that are made of numbers read out: what follows from an earlier place, what is a difference of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.records import Cause, Diagnosis, Verdict
from whydiff.report.answer import answer

INPUTS = torch.linspace(-1, 1, 40).view(5, 2, 4)
Later = Callable[[float], float]


def _trained(first: float, later: Later) -> list[float]:
    """Five steps; at step 1 the gradient is multiplied by a factor, at step 3 by one made of the loss that was printed."""
    torch.manual_seed(0)
    weight = torch.randn(4, 3, requires_grad=True)
    losses = []
    for step in range(5):
        loss = (INPUTS[step] @ weight).square().mean()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            gradient.mul_(first if step == 1 else later(losses[-1]) if step == 3 else 1.0)
            weight -= 0.3 * gradient
    return losses


def _compared(folder: Path, later: Later, other: Later | None = None, first: float = 1.3) -> Diagnosis:
    for name, run in (
        ("reference", lambda: _trained(1.0, later)),
        ("candidate", lambda: _trained(first, other or later)),
    ):
        with whydiff.capture(folder / name):
            run()
    return whydiff.compare(str(folder / "reference"), str(folder / "candidate"))


def _confirmed(found: Diagnosis) -> list[Cause]:
    assert found.verdict is Verdict.SEMANTIC
    return [cause for cause in found.causes if cause.status == "confirmed"]


@pytest.mark.parametrize(
    "later",
    [
        lambda x: x,
        lambda x: 1 / (0.5 + x),
        lambda x: 1 / (0.5 + round(x, 6)),
        lambda x: 0.3 + round(x, 6),
        lambda x: 2.5 / x,
        lambda x: math.exp(-0.7 * x),
        lambda x: x**0.5,
        lambda x: math.log(1.5 + x),
    ],
)
def test_what_is_one_function_of_the_loss_on_both_sides_follows_and_is_no_second_cause(
    tmp_path: Path, later: Later
) -> None:
    found = _compared(tmp_path, later)
    (cause,) = _confirmed(found)
    assert [c for c in found.causes if c.status != "refuted" and not c.inert] == [cause]
    assert cause.site == ":mul_#1" and "times 1.3" in cause.says
    assert {one.direction: one.left for one in cause.experiments} == {"take_away": "nothing", "put_in": "nothing"}
    assert any("on both sides" in evidence.statement for evidence in cause.evidence)
    assert answer(found).causes == ()


def test_the_same_form_with_another_constant_is_a_cause_of_its_own(tmp_path: Path) -> None:
    found = _compared(tmp_path, lambda x: 1 / (0.5 + x), lambda x: 1 / (0.8 + x))
    one, other = sorted(_confirmed(found), key=lambda cause: cause.site)
    assert (one.site, other.site) == (":mul_#1", ":mul_#3")
    assert "1 / (0.8 + x) in the candidate, 1 / (0.5 + x) in the reference" in other.says


def _unknown(constant: float) -> Later:
    return lambda x: 1 / (constant + x * x)


@pytest.mark.parametrize("constant", [0.5, 0.8])
def test_what_is_made_in_a_way_that_cannot_be_told_may_follow_and_stays_listed(tmp_path: Path, constant: float) -> None:
    found = _compared(tmp_path, _unknown(0.5), _unknown(constant))
    (cause,) = _confirmed(found)
    (later,) = [c for c in found.causes if c.after]
    assert cause.site == ":mul_#1" and later.site == ":mul_#3"
    assert later.status == "inconclusive" and later.after == ":mean#3"
    told = answer(found)
    _, second = told.causes
    assert "may only follow" in second and "compare again" in second and "times" in second
    assert "what may only follow from it" in told.proof and "what may only follow from it" in told.fix
    assert "other causes" not in told.text()


def test_a_constant_that_the_reference_always_has_does_not_follow(tmp_path: Path) -> None:
    found = _compared(tmp_path, lambda x: 1.0, lambda x: 0.6)
    assert found.verdict is Verdict.SEMANTIC
    assert not any(cause.after for cause in found.causes)
    assert {c.site for c in found.causes if c.status in ("confirmed", "located")} == {":mul_#1", ":mul_#3"}


def test_without_an_earlier_difference_nothing_can_follow(tmp_path: Path) -> None:
    found = _compared(tmp_path, _unknown(0.5), _unknown(0.8), first=1.0)
    assert not any(cause.after for cause in found.causes)
    assert [c.site for c in found.causes if c.status in ("confirmed", "located")] == [":mul_#3"]


def test_constants_that_a_rounded_number_meets_by_chance_are_not_said_to_follow() -> None:
    """Rounded to three digits the loss moves by one unit: so do two constants that somebody wrote down."""
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    inputs = torch.linspace(-1, 1, 256).view(32, 8)

    def program(scale: float, factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(x @ weight) * scale
            (y.square().mean().sqrt() + 0.3).item()
            return torch.sin(y).mul(factor)

        return run

    loss = float((torch.tanh(inputs @ weight)).square().mean().sqrt() + 0.3)
    apart = round(loss * 1.0 + 0.001 * (loss - 0.3), 3) - round(loss, 3)
    found = whydiff.compare(program(1.0, 0.98175), program(1.001, 0.98175 + (apart or 0.001)), inputs)
    assert any(cause.site.endswith("mul#1") or "mul#1" in str(cause.interventions) for cause in found.causes)
    assert not any("it follows" in evidence.statement for cause in found.causes for evidence in cause.evidence)
