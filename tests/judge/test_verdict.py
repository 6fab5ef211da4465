"""Weighing causes against each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whydiff.judge.weighing import held_back, offered
from whydiff.records import Cause, Experiment, Remedy, Verdict

DONE = Experiment((), "outputs equal", "bit-equal", "confirmed", "replay")
GENERAL = Cause(
    "FO008", "formula-differs", "a:mul#0", Verdict.SEMANTIC, (), None, status="confirmed", experiments=(DONE,)
)
UNTRIED = Cause("ST006", "config-differs", "config.window", Verdict.SEMANTIC, (), None, reason="needs a live run")


def test_a_general_cause_waits_for_a_named_one_that_could_not_be_tried() -> None:
    general, named = held_back((GENERAL, UNTRIED))
    assert (general.status, named) == ("inconclusive", UNTRIED)
    assert "ST006 config-differs at config.window" in general.reason
    assert general.experiments == (DONE,)


@pytest.mark.parametrize(
    "other",
    [
        replace(UNTRIED, inert=True),
        replace(UNTRIED, status="refuted"),
        replace(UNTRIED, experiments=(replace(DONE, status="inconclusive"),)),
        replace(UNTRIED, verdict=Verdict.ROUNDING),
        replace(UNTRIED, code="FO007", name="step-left-out"),
    ],
    ids=["inert", "refuted", "tried", "no other function", "general itself"],
)
def test_it_waits_for_nothing_else(other: Cause) -> None:
    assert held_back((GENERAL, other)) == (GENERAL, other)


def test_a_general_cause_of_precision_does_not_wait() -> None:
    precise = replace(GENERAL, verdict=Verdict.PRECISION)
    assert held_back((precise, UNTRIED)) == (precise, UNTRIED)


def test_a_named_cause_waits_for_nobody() -> None:
    eps = replace(GENERAL, code="FO001", name="eps-differs")
    assert held_back((eps, UNTRIED)) == (eps, UNTRIED)


def test_what_an_experiment_speaks_against_is_not_advised() -> None:
    advised = replace(GENERAL, remedy=Remedy("Change it."))
    assert offered(replace(advised, status="refuted")).remedy is None
    assert offered(replace(advised, status="refuted", inert=True)).remedy is not None
    assert offered(advised) == advised
