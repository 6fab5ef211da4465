"""Modules on one side and functions on the other: the same ops under other scopes, one of which is given another number."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from whydiff.pipeline import compare
from whydiff.records import Verdict
from whydiff.report.answer import answer

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.LayerNorm(32))
INPUTS = torch.randn(3, 32)


def written_out(x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(torch.relu(MODEL[0](x)), (32,), MODEL[2].weight, MODEL[2].bias, eps)


def test_the_number_is_named_and_not_the_ops_that_both_have() -> None:
    found = compare(MODEL, lambda x: written_out(x, 1e-3), INPUTS)
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = [cause for cause in found.causes if cause.status in ("confirmed", "located")]
    assert cause.interventions[0].name == "set-argument" and cause.interventions[0].value[-1] == 1e-5
    fix = answer(found).fix
    assert "1e-05 in the reference and 0.001 in the candidate" in fix and "relu" not in fix
    assert {one.direction: one.left for one in cause.experiments}["take_away"] == "nothing"


def test_the_same_refactoring_without_it_is_identical() -> None:
    assert compare(MODEL, lambda x: written_out(x, 1e-5), INPUTS).verdict is Verdict.IDENTICAL
