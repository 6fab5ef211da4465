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


LAYERS = {f"layer_{i}": torch.randn(6, 6, generator=torch.Generator().manual_seed(i)) * 0.4 for i in range(12)}
LINES = {f"line_{i}": torch.linspace(0.1 * i, 1.0, 6) for i in range(12)}
HIDDEN = torch.linspace(-1.0, 1.0, 12).reshape(2, 6)
BY_NUMBER, BY_TEXT = sorted(LAYERS, key=lambda name: int(name[6:])), sorted(LAYERS)


def deep(names: list[str]) -> Any:
    hidden = HIDDEN
    for weight in torch.stack([LAYERS[name] for name in names]):
        hidden = hidden + torch.tanh(hidden @ weight)
    return hidden


def test_layers_in_another_order_are_one_cause() -> None:
    found = compare(lambda: deep(BY_NUMBER), lambda: deep(BY_TEXT))
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = found.causes
    assert (cause.code, cause.status) == ("FO006", "confirmed")
    assert "the same tensors in another order: LAYERS.layer_10 for LAYERS.layer_2" in cause.says
    assert {(one.direction, one.left) for one in cause.experiments} == {("take_away", "nothing"), ("put_in", "nothing")}


def test_an_order_that_only_a_sum_sees_is_no_cause() -> None:
    found = compare(
        lambda: torch.stack([LINES[f"line_{i}"] for i in range(12)]).sum(0),
        lambda: torch.stack([LINES[name] for name in sorted(LINES)]).sum(0),
    )
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
    assert not any(cause.status == "confirmed" and cause.verdict is Verdict.SEMANTIC for cause in found.causes)


OURS = [torch.randn(6, 6, generator=torch.Generator().manual_seed(20 + i)) * 0.4 for i in range(3)]
COPIED, EXCHANGED = [weight.clone() for weight in OURS], [OURS[i].clone() for i in (0, 2, 1)]


def narrow(weights: list[Any]) -> Any:
    hidden = HIDDEN
    for weight in weights:
        hidden = hidden + torch.tanh((hidden.bfloat16() @ weight.bfloat16()).float())
    return hidden


def wide() -> Any:
    hidden = HIDDEN
    for weight in OURS:
        hidden = hidden + torch.tanh(hidden @ weight)
    return hidden


def test_a_tensor_under_another_name_that_is_also_converted_differs_by_its_values() -> None:
    found = compare(wide, lambda: narrow(EXCHANGED))
    assert found.verdict is Verdict.SEMANTIC
    (named,) = [cause for cause in found.causes if cause.status == "confirmed" and cause.code == "ST002"]
    assert named.evidence[0].data["sources"] == {"OURS[1]": "OURS[2]", "OURS[2]": "OURS[1]"}
    assert not any(cause.code == "FO007" for cause in found.causes)


def test_a_copy_under_another_name_that_is_converted_is_another_precision_only() -> None:
    found = compare(wide, lambda: narrow(COPIED))
    assert found.verdict is Verdict.PRECISION
    assert not any(cause.code.startswith("ST") for cause in found.causes)
