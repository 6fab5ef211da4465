"""The fast cases of the corpus; all of them: ``make corpus``. Every score is asserted (`tests.corpus.expected`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.corpus.cases import PARTS, Planted, cases, judge
from tests.corpus.expected import MISSES, TOTALS, deviations, expected, totals
from tests.plain import faults, is_cut_short

from whydiff.pipeline import compare
from whydiff.report.answer import answer

QUICK = [case for case in cases() if case.quick]
DEFECTS = [case for case in cases() if case.defect]


@pytest.mark.parametrize("planted", QUICK, ids=lambda planted: planted.name)
def test_a_case_is_judged_as_written_down(planted: Planted) -> None:
    reference, candidate, inputs = planted.make()
    diagnosis = compare(reference, candidate, *inputs)
    assert not deviations(planted, judge(planted, diagnosis), diagnosis.verdict.value), diagnosis.reason
    assert diagnosis.reason
    assert faults(diagnosis) == [] and not is_cut_short(diagnosis), answer(diagnosis).text()


@pytest.mark.parametrize("part", [*PARTS, ""])
def test_the_totals_are_the_sum_of_the_cases(part: str) -> None:
    assert totals((case.defect, expected(case), "…") for case in cases(part)) == TOTALS[part]


def test_the_misses_are_cases_and_are_misses() -> None:
    named = {case.name: case for case in cases()}
    assert set(MISSES) <= set(named)
    for name in MISSES:
        ours = expected(named[name])
        assert not ours.verdict or ours.family is False or ours.wrong or ours.missed, name


def test_a_change_in_either_direction_is_a_deviation() -> None:
    missed = next(case for case in cases() if case.name in MISSES)
    right = next(case for case in cases() if case.name not in MISSES and case.defect)
    word = MISSES[missed.name].verdict.value
    assert deviations(missed, expected(missed), word) == []
    assert deviations(missed, replace(expected(missed), family=True), word) != []
    assert deviations(missed, expected(missed), "rounding") != []
    for change in ({"verdict": False}, {"family": False}, {"wrong": ("ST001 at x",)}, {"missed": True}):
        assert len(deviations(right, replace(expected(right), **change), "semantic")) == 1


@pytest.mark.parametrize("half", sorted({case.half for case in cases()}))
def test_each_half_is_balanced(half: str) -> None:
    planted = [case.defect for case in cases(half)]
    assert len(planted) >= 20
    assert 0.4 <= sum(planted) / len(planted) <= 0.6


def test_the_defects_are_spread_over_the_families() -> None:
    families = {family[:2] for case in DEFECTS for family in case.families}
    assert {"ST", "PR", "FO", "IN", "MD", "TR", "OV"} <= families
    assert any(case.every for case in DEFECTS)
