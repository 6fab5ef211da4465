"""What enters from Python or numpy is the cause if everything before it agrees; positions are named with their start."""

from __future__ import annotations

import pytest
import torch
from tests.field import entering

from whydiff.pipeline import compare
from whydiff.records import Verdict


@pytest.mark.parametrize("name", ["factor", "sorted_rows", "numpy_mask"])
def test_other_numbers_from_numpy_are_named_and_proven(name: str) -> None:
    diagnosis = compare(*getattr(entering, name)())
    assert diagnosis.verdict is Verdict.SEMANTIC, diagnosis.reason
    first = diagnosis.causes[0]
    assert (first.code, first.status) == ("IN001", "confirmed")
    assert [experiment.direction for experiment in first.experiments] == ["take_away", "put_in"]


def test_the_factor_is_told() -> None:
    (cause,) = compare(*entering.factor()).causes
    assert [evidence.data["factor"] for evidence in cause.evidence if "factor" in evidence.data] == [pytest.approx(1.5)]


def test_the_same_numbers_from_numpy_are_identical() -> None:
    assert compare(*entering.copied()).verdict is Verdict.IDENTICAL


def test_what_numpy_makes_of_another_weight_is_its_consequence() -> None:
    diagnosis = compare(*entering.weight_before())
    assert {(cause.code, cause.status) for cause in diagnosis.causes} == {("ST001", "confirmed")}


def test_positions_without_the_offset_of_padding_get_a_remedy_with_it() -> None:
    diagnosis = compare(*entering.positions(0))
    first = diagnosis.causes[0]
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert (first.code, first.status) == ("IN002", "confirmed")
    assert first.remedy is not None
    scope = {"attention_mask": torch.tensor([[1, 1, 1, 0]])}
    exec(first.remedy.code, scope)
    assert scope["positions"].tolist() == [[2, 3, 4, 1]]


def test_the_same_positions_given_are_identical() -> None:
    assert compare(*entering.positions(2)).verdict is Verdict.IDENTICAL
