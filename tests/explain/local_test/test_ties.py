"""Two choices of the same values that differ only among equal ones: no matter of precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from whydiff.explain.local_test.ties import chooses, ties_broken_otherwise
from whydiff.pipeline import compare
from whydiff.records import Call, Payload, Site, Verdict

BY = np.array([[2.0, 1.0, 2.0, 0.5], [3.0, 3.0, 1.0, 0.0]])


def places(*rows: Any, dtype: str = "int64") -> Payload:
    return Payload(np.array(rows, dtype=dtype), dtype)


FIRST, SECOND = places([0, 2, 1], [0, 1, 2]), places([2, 0, 1], [1, 0, 2])


def test_equal_values_at_other_places_are_ties() -> None:
    found = ties_broken_otherwise([[BY], [BY]], [FIRST, SECOND])
    assert found is not None and found.tied
    assert found.verdict is Verdict.SEMANTIC
    assert found.evidence[0].data == {"other_places": 4, "places": 6}


def test_an_axis_may_be_left_out_of_the_places() -> None:
    found = ties_broken_otherwise([[BY], [BY]], [places(0, 0), places(2, 1, dtype="int32")])
    assert found is not None


@pytest.mark.parametrize(
    ("reads", "outputs"),
    [
        ([[BY], [BY]], [FIRST, FIRST]),
        ([[BY], [BY + 1e-9]], [FIRST, SECOND]),
        ([[BY], [BY]], [FIRST, places([1, 2, 0], [0, 1, 2])]),
        ([[BY], [BY]], [FIRST, places([3, 2, 1, 0], [2, 1, 0, 3])]),
        ([[BY], [BY]], [places([0], [4]), places([2], [4])]),
        ([[BY], [BY]], [places([0.0], [0.0], dtype="float64"), places([2.0], [1.0], dtype="float64")]),
        ([[BY], [BY]], [places([False], [False], dtype="bool"), places([True], [True], dtype="bool")]),
        ([[BY.astype("int64")], [BY.astype("int64")]], [FIRST, SECOND]),
        ([[BY[None]], [BY[None]]], [places(0), places(2)]),
    ],
    ids=[
        "the same",
        "other scores",
        "lower score",
        "other shape",
        "outside",
        "numbers",
        "flags",
        "whole",
        "other axes",
    ],
)
def test_what_is_no_tie(reads: Any, outputs: list[Payload]) -> None:
    assert ties_broken_otherwise(reads, outputs) is None


def test_the_adapter_says_what_chooses() -> None:
    calls = {op: Call(0, Site("", op), op, "compute") for op in ("topk", "sort", "mul", "top_k", "TopK")}
    assert chooses("torch", [calls["mul"], calls["topk"]])
    assert chooses("torch", [calls["sort"]])
    assert chooses("jax", [calls["top_k"]])
    assert chooses("onnx", [calls["TopK"]])
    assert not chooses("torch", [calls["mul"]])
    assert not chooses("torch", [])


EXPERTS = torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))


def largest(given: torch.Tensor, how: str, count: int = 3) -> torch.Tensor:
    """Places of the largest few of each row; of equal ones, which the op finds or the first."""
    if how == "topk":
        return given.topk(count, -1).indices
    return torch.argsort(given, dim=-1, descending=True, stable=True)[:, :count]


def routed(*, how: str, scores: torch.dtype = torch.bfloat16, by: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """The experts of each token by the largest scores of one dtype, chosen by another."""
    given = torch.sigmoid((TOKENS * 0.05).to(scores)).to(by)
    return EXPERTS[largest(given, how).sort(-1).values].sum(1)


def test_experts_that_are_chosen_otherwise_among_equals() -> None:
    found = compare(lambda: routed(how="topk"), lambda: routed(how="stable"))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO008", "located")]
    assert "equal" in found.causes[0].says


def test_experts_that_are_chosen_by_rounded_scores() -> None:
    wide, narrow = torch.float32, torch.bfloat16
    found = compare(
        lambda: routed(how="topk", scores=wide, by=wide), lambda: routed(how="stable", scores=wide, by=narrow)
    )
    assert found.verdict is Verdict.PRECISION
    assert not [cause for cause in found.causes if "equal" in cause.says]


def test_equal_values_that_are_all_that_is_taken() -> None:
    def summed(how: str) -> torch.Tensor:
        given = torch.sigmoid((TOKENS * 0.05).bfloat16())
        return given.gather(-1, largest(given, how)).float() @ EXPERTS[:3]

    found = compare(lambda: summed("topk"), lambda: summed("stable"))
    assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    assert not found.causes


def test_equal_values_that_are_added_up_in_another_order() -> None:
    def summed(how: str) -> torch.Tensor:
        given = torch.sigmoid((TOKENS * 0.05).bfloat16())
        return EXPERTS[largest(given, how, 24)].sum(1)  # all of them

    found = compare(lambda: summed("topk"), lambda: summed("stable"))
    (one,) = found.origins
    assert any("values at all of them are equal" in evidence.statement for evidence in one.evidence)
    assert found.verdict is not Verdict.SEMANTIC
    assert not found.causes
