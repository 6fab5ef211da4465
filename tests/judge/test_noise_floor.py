"""When it matters how much rounding alone could make."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whydiff.judge.noise_floor import in_question
from whydiff.records import Cause, Verdict

PROVEN = Cause("FO003", "scale-differs", "a:mul#0", Verdict.SEMANTIC, status="confirmed")


def test_it_does_not_where_a_cause_of_another_function_is_proven() -> None:
    assert not in_question(Verdict.SEMANTIC, (PROVEN,))


@pytest.mark.parametrize(
    ("verdict", "causes"),
    [
        (Verdict.SEMANTIC, ()),
        (Verdict.SEMANTIC, (replace(PROVEN, status="refuted"),)),
        (Verdict.SEMANTIC, (replace(PROVEN, inert=True),)),
        (Verdict.UNSTABLE, (PROVEN,)),
        (Verdict.INCONCLUSIVE, (PROVEN,)),
        (Verdict.ROUNDING, (replace(PROVEN, verdict=Verdict.ROUNDING),)),
        (Verdict.PRECISION, (replace(PROVEN, verdict=Verdict.PRECISION),)),
    ],
)
def test_it_does_for_rounding_and_precision_and_where_nothing_is_proven(
    verdict: Verdict, causes: tuple[Cause, ...]
) -> None:
    assert in_question(verdict, causes)
