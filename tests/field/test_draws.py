"""Random numbers that come out otherwise are the cause, proven both ways; the network is innocent."""

from __future__ import annotations

import pytest
from tests.field import draws

from whydiff.pipeline import compare
from whydiff.records import Verdict

OTHER_NUMBERS = {"size": ["size"], "dtype": ["dtype"], "wide": ["dtype"], "state": ["state"], "order": None}


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_other_numbers_are_drawn(name: str) -> None:
    diagnosis = compare(*getattr(draws, name)())
    assert diagnosis.verdict is Verdict.SEMANTIC, diagnosis.reason
    first = diagnosis.causes[0]
    assert (first.code, first.status) == ("MD002", "confirmed")
    assert [experiment.direction for experiment in first.experiments] == ["take_away", "put_in"]
    assert first.evidence[0].data.get("differs") == OTHER_NUMBERS[name]
    assert first.remedy is not None and first.remedy.carried_out
    assert [c.code for c in diagnosis.causes if c.status == "confirmed"] == ["MD002"]


def test_the_same_numbers_in_another_shape_are_the_same() -> None:
    assert compare(*draws.flat()).verdict is Verdict.IDENTICAL


def test_the_same_numbers_times_a_factor_are_no_other_draw() -> None:
    diagnosis = compare(*draws.scaled())
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert "MD002" not in [cause.code for cause in diagnosis.causes]


def test_a_batch_that_is_the_beginning_of_a_larger_one_is_the_same_draw() -> None:
    diagnosis = compare(*draws.rows())
    assert diagnosis.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.INCONCLUSIVE), diagnosis.reason
    assert "MD002" not in [cause.code for cause in diagnosis.causes if cause.status == "confirmed"]
