"""When it matters how much rounding alone could make."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest

from whydiff.judge.noise_floor import in_question
from whydiff.records import Cause, Payload, Slot, Verdict

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


def test_a_large_output_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    ours = generator.standard_normal((3, 41)).astype(np.float32)
    theirs = ours + generator.standard_normal(ours.shape).astype(np.float32) * 1e-6
    ours[1, 7], theirs[0, 5] = np.inf, np.nan
    reference, rounded = Payload(ours, "float32"), Payload(theirs, "float32")
    module = sys.modules["whydiff.judge.noise_floor"]

    def found() -> tuple[tuple[float, float], float]:
        return module._distance(reference, rounded), module._floor(
            Slot(0, "x"), [(1e-7, 1e-6)] * 3, reference
        ).magnitude

    whole = found()
    monkeypatch.setattr("whydiff.numbers.pieces.PIECE", 10)
    distance, magnitude = found()
    assert distance == whole[0] and math.isclose(magnitude, whole[1], rel_tol=1e-12)
    exact = ours.astype(np.float64)
    assert math.isclose(magnitude, np.sqrt(np.mean(exact[np.isfinite(exact)] ** 2)), rel_tol=1e-12)
    with np.errstate(invalid="ignore"):
        excess = np.abs(theirs.astype(np.float64) - exact) - 1.3e-6 * np.abs(exact)
    assert distance[1] == excess[np.isfinite(excess)].max() > 0
    empty = Payload(np.zeros((0, 3), np.float32), "float32")
    assert (
        module._distance(empty, empty) == (0.0, 0.0) and module._floor(Slot(0, "x"), [(0, 0)] * 3, empty).magnitude == 0
    )
