"""When it matters how much rounding alone could make."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whydiff.judge.noise_floor import in_question
from whydiff.records import Cause, Verdict

PROVEN = Cause("FO003", "scale-differs", "a:mul#0", Verdict.SEMANTIC, status="confirmed")


@pytest.mark.parametrize("verdict", [Verdict.SEMANTIC, Verdict.PRECISION, Verdict.UNSTABLE])
def test_it_does_not_where_a_cause_of_more_than_rounding_is_proven(verdict: Verdict) -> None:
    assert not in_question(verdict, (replace(PROVEN, verdict=verdict),))


@pytest.mark.parametrize(
    ("verdict", "causes"),
    [
        (Verdict.SEMANTIC, ()),
        (Verdict.SEMANTIC, (replace(PROVEN, status="refuted"),)),
        (Verdict.SEMANTIC, (replace(PROVEN, inert=True),)),
        (Verdict.UNSTABLE, (PROVEN,)),
        (Verdict.INCONCLUSIVE, (PROVEN,)),
        (Verdict.ROUNDING, (replace(PROVEN, verdict=Verdict.ROUNDING),)),
        (Verdict.PRECISION, (replace(PROVEN, verdict=Verdict.ROUNDING),)),
    ],
)
def test_it_does_for_rounding_and_where_nothing_of_the_verdict_is_proven(
    verdict: Verdict, causes: tuple[Cause, ...]
) -> None:
    assert in_question(verdict, causes)
