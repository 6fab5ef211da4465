"""A few pairs of ``python -m tests.scores.training``, which counts them all."""

from __future__ import annotations

import pytest
from tests.scores import training

pytestmark = pytest.mark.usefixtures("looked_through")


@pytest.mark.parametrize(
    "name",
    [
        "data_behind",
        pytest.param("second_network_rate", marks=pytest.mark.slow),
        "clip_missing",
        pytest.param("schedule_and_random_lost", marks=pytest.mark.slow),
        "right_resume",
    ],
)
def test_a_pair_has_its_answer(name: str) -> None:
    row = training.judged(name)
    assert row["verdict_right"], row
    assert row["cause_right"], row
    assert row["step_right"], row
    assert not row["proven_wrongly"], row


def test_the_corpus_is_large_enough_and_has_benign_pairs() -> None:
    cases = [make() for make in training.CASES.values()]
    assert len(cases) >= 30
    assert sum(not case.causes for case in cases) >= 8
    assert any(len(case.causes) > 1 for case in cases)
