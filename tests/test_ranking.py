"""In which order a diagnosis names its causes: what acts, what is proven, what has the largest effect."""

from __future__ import annotations

from itertools import permutations
from typing import Any, get_args

from whydiff.judge.ranked import rank
from whydiff.records import Cause, Measurement, Status, Verdict


def cause(code: str = "ST001", effect: float = 1.0, **fields: Any) -> Cause:
    fields = {"status": "confirmed", "effect": (Measurement("one_in", effect, "output elements"),), **fields}
    return Cause(code=code, name="x", site=fields.pop("site", "a"), verdict=Verdict.SEMANTIC, **fields)


def ranked(*causes: Cause) -> None:
    """They are given in the order in which they must come out."""
    for shuffled in permutations(causes):
        assert tuple(sorted(shuffled, key=rank)) == causes


def test_what_is_inert_comes_last_whatever_its_status_and_size() -> None:
    ranked(cause(status="refuted", effect=0.1), cause(status="confirmed", effect=9.0, inert=True))


def test_then_what_acts_for_certain_before_what_was_refuted_or_stayed_open() -> None:
    assert get_args(Status)[0] == "confirmed" and get_args(Status)[1] == "located"
    ranked(*(cause(status=status, effect=1 + n / 10) for n, status in enumerate(get_args(Status))))


def test_a_proven_trifle_does_not_lead_a_place_that_moves_the_outputs_far_more() -> None:
    ranked(cause(status="located", effect=1.0), cause(status="confirmed", effect=0.001))


def test_a_region_around_a_proven_cause_does_not_lead_it() -> None:
    ranked(cause(status="confirmed", effect=1.0), cause(status="located", effect=1.5))


def test_then_by_the_measured_effect_and_only_then_by_code_and_site() -> None:
    ranked(
        cause("ZZ001", 3.0), cause("AA001", 2.0), cause("BB001", 2.0), cause("BB001", 2.0, site="b"), cause(effect=0)
    )
