"""Ops that read another tensor than their counterparts, or one value in groups of another size."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

TABLES = [torch.linspace(0.1, 1.7, 8), torch.linspace(0.3, 0.9, 8)]
REWARDS = torch.randn(12, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 4.0, 9.0]).repeat_interleave(
    4
)
WEIGHTS = torch.randn(12, generator=torch.Generator().manual_seed(1))


def looked_up(number: int) -> Any:
    return torch.tanh(TABLES[number]) @ torch.ones(8)


def test_another_tensor_of_the_same_program_is_named_and_proven() -> None:
    found = compare(lambda: looked_up(0), lambda: looked_up(1))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO006", "confirmed")]
    assert found.causes[0].says == "the candidate reads TABLES[1] where the reference reads TABLES[0]"


def advantage(groups: int) -> Any:
    rewards = REWARDS.view(groups, -1)
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(1, keepdim=True) + 1e-6)).flatten() * WEIGHTS


def test_a_statistic_over_the_batch_instead_of_each_group_is_named() -> None:
    found = compare(lambda: advantage(3), lambda: advantage(1))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO008", "located")]
    assert "[3, 4] in the reference and [1, 12] in the candidate" in found.causes[0].evidence[0].statement


def test_one_value_folded_otherwise_is_no_other_size_of_the_run() -> None:
    found = compare(lambda: advantage(1), lambda: (advantage(1).view(3, 4) * 1.0).flatten())
    assert found.verdict is Verdict.IDENTICAL
