"""The fast cases of the corpus; all of them: ``make corpus``."""

from __future__ import annotations

import pytest
from tests.corpus.cases import Planted, cases, judge

from whydiff.pipeline import compare
from whydiff.records import Verdict

QUICK = [case for case in cases() if case.quick]
DEFECTS = [case for case in cases() if case.defect]


@pytest.mark.parametrize("planted", QUICK, ids=lambda planted: planted.name)
def test_a_case_is_not_misjudged(planted: Planted) -> None:
    reference, candidate, inputs = planted.make()
    diagnosis = compare(reference, candidate, *inputs)
    judged = judge(planted, diagnosis)
    assert not judged.missed, diagnosis.reason
    assert judged.verdict or diagnosis.verdict is Verdict.INCONCLUSIVE, (diagnosis.verdict, diagnosis.reason)
    assert diagnosis.reason
    assert not judged.wrong


@pytest.mark.parametrize("half", sorted({case.half for case in cases()}))
def test_each_half_is_balanced(half: str) -> None:
    planted = [case.defect for case in cases(half)]
    assert len(planted) >= 20
    assert 0.4 <= sum(planted) / len(planted) <= 0.6


def test_the_defects_are_spread_over_the_families() -> None:
    families = {family[:2] for case in DEFECTS for family in case.families}
    assert {"ST", "PR", "FO", "IN", "MD", "TR", "OV"} <= families
    assert any(case.every for case in DEFECTS)
