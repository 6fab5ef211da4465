"""Losses of micro-batches, and a softmax in 16 bits: what is named, and what is not."""

from __future__ import annotations

import pytest
from tests.field import losses

from whydiff.pipeline import compare
from whydiff.records import Diagnosis


def codes(diagnosis: Diagnosis) -> set[str]:
    return {cause.code for cause in diagnosis.causes if cause.status != "refuted"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_mean_of_unequal_micro_batches_is_named(turned: bool) -> None:
    reference, candidate = losses.unequal()
    found = compare(candidate, reference) if turned else compare(reference, candidate)
    assert str(found.verdict) == "semantic"
    assert found.causes[0].code == "TR001"
    data = found.causes[0].evidence[0].data
    assert (data["side"], data["counts"]) == ("reference" if turned else "candidate", [8, 10, 8])


@pytest.mark.parametrize("name", ["equal", "unequal_weighed"])
def test_the_same_mean_in_parts_is_rounding(name: str) -> None:
    found = compare(*getattr(losses, name)())
    assert str(found.verdict) in ("rounding", "identical"), found.reason
    assert "TR001" not in codes(found)


def test_smoothed_labels_are_no_normalisation() -> None:
    found = compare(*losses.smoothed())
    assert str(found.verdict) == "semantic"
    assert "TR001" not in {cause.code for cause in found.causes if cause.status == "confirmed"}


def test_a_softmax_in_sixteen_bits_is_precision_and_named() -> None:
    found = compare(*losses.softmax_by_hand())
    assert str(found.verdict) == "precision"
    assert (found.causes[0].code, found.causes[0].status) == ("PR002", "located")


def test_another_temperature_is_no_narrower_dtype() -> None:
    found = compare(*losses.softmax_by_hand(0.8))
    assert str(found.verdict) == "semantic"
    assert "PR002" not in codes(found)
