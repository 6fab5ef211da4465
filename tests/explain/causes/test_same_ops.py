"""Modules on one side and functions on the other: the same ops under other scopes, one of which is given another number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer

torch.manual_seed(0)
LINEAR, NORM = nn.Linear(32, 32), nn.LayerNorm(32)
INPUTS = torch.randn(3, 32)
MODEL = nn.Sequential(LINEAR, nn.ReLU(), NORM)
DEEP = nn.Sequential(LINEAR, nn.Tanh(), nn.LeakyReLU(0.2), nn.Softplus(2.0), nn.Softmax(-1))


def written_out(x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(torch.relu(LINEAR(x)), (32,), NORM.weight, NORM.bias, eps)


def deep(x: torch.Tensor, slope: float = 0.2, axis: int = -1, **given: float) -> torch.Tensor:
    return torch.softmax(F.softplus(F.leaky_relu(torch.tanh(LINEAR(x)), slope), **given), axis)


def proven(found: Diagnosis) -> list[Any]:
    """The interventions of what is confirmed; nothing may be merely located."""
    assert found.verdict is Verdict.SEMANTIC
    causes = [cause for cause in found.causes if cause.status in ("confirmed", "located")]
    assert {cause.status for cause in causes} == {"confirmed"}
    assert {e.direction for cause in causes for e in cause.experiments} == {"take_away", "put_in"}
    assert {item.name for cause in causes for item in cause.interventions} == {"set-argument"}
    return [item.value for cause in causes for item in cause.interventions]


@pytest.mark.parametrize("eps", [1e-3, 1e-6])
def test_an_epsilon_behind_another_op_is_named_and_proven(eps: float) -> None:
    found = compare(MODEL, lambda x: written_out(x, eps), INPUTS)
    assert proven(found) == [(4, 1e-5)] and found.causes[0].code == "FO002"
    assert "relu" not in answer(found).fix


@pytest.mark.parametrize(
    ("other", "given"),
    [({"slope": 0.3}, [(1, 0.2)]), ({"axis": 0}, [(1, -1)]), ({"axis": 0, "slope": 0.3}, [(1, -1), (1, 0.2)])],
    ids=["slope", "axis", "both"],
)
def test_the_number_is_named_and_not_the_ops_that_both_have(other: dict[str, Any], given: list[Any]) -> None:
    assert proven(compare(DEEP, lambda x: deep(x, beta=2.0, **other), INPUTS)) == given


@pytest.mark.parametrize("turned", [False, True])
def test_a_default_against_a_number_is_said_to_be_one(turned: bool) -> None:
    """The module gives what is no default; the function leaves it out, and a second argument that is the same."""
    pair = DEEP, deep
    found = compare(*(pair[::-1] if turned else pair), INPUTS)
    assert proven(found) == [(1, 1 if turned else 2.0)]
    sides = ("its default (1)", "2.0") if turned else ("2.0", "its default (1)")
    assert f"beta is {sides[0]} in the reference and {sides[1]} in the candidate" in answer(found).fix


@pytest.mark.parametrize("turned", [False, True])
def test_a_default_that_is_a_list_is_put_in_as_well(turned: bool) -> None:
    pair = (lambda x: x.roll(1, 1).cos()), (lambda x: x.roll(1).cos())
    found = compare(*(pair[::-1] if turned else pair), torch.arange(12.0).reshape(3, 4))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO008", "confirmed")]


def test_the_same_refactoring_without_it_is_identical() -> None:
    assert compare(MODEL, lambda x: written_out(x, 1e-5), INPUTS).verdict is Verdict.IDENTICAL
    assert compare(DEEP, lambda x: deep(x, beta=2.0), INPUTS).verdict is Verdict.IDENTICAL
