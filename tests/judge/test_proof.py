"""Every row of the rules that turn two directions' outcomes into a status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from whydiff.explain.experiments import Outcome
from whydiff.judge.proof import Way, concluded
from whydiff.records import Cause, Comparison, Direction, Intervention, Measurement, Remedy, Slot, Verdict

HERE = Intervention("restore-state", "weight")
DIFFERS = Comparison("differs", "", (Measurement("mean_abs", 1.0),))


def outcome(mean: float) -> Outcome:
    found = Comparison("agrees") if mean == 0 else replace(DIFFERS, measurements=(Measurement("mean_abs", mean),))
    return Outcome(mean == 0, mean, 4, ((Slot(0, "output"), found),), "replay")


def way(
    direction: Direction,
    *,
    before: float = 1.0,
    alone: float = 0.0,
    every: float | None = None,
    others: float | None = None,
    **facts: Any,
) -> Way:
    """Means of the outcomes; without other causes ``every`` is ``alone`` and ``others`` is ``before``."""
    return Way(
        direction,
        (HERE,),
        outcome(before),
        outcome(alone),
        outcome(alone if every is None else every),
        outcome(before if others is None else others),
        **facts,
    )


def untried(why: str = "it needs a live reference") -> Way:
    return way("put_in", why_not=why)


def cause(**fields: Any) -> Cause:
    return Cause("ST001", "weight-differs", "weight", Verdict.SEMANTIC, interventions=(HERE,), **fields)


def status(away: Way, put: Way) -> str:
    return concluded(cause(), away, put).status


def test_both_directions_confirm() -> None:
    found = concluded(cause(), way("take_away"), way("put_in"))
    assert (found.status, found.reason) == ("confirmed", "")
    assert [e.direction for e in found.experiments] == ["take_away", "put_in"]
    assert all(e.status == "confirmed" for e in found.experiments)


def test_what_was_only_taken_away_is_located() -> None:
    found = concluded(cause(), way("take_away"), untried())
    assert found.status == "located"
    assert "it needs a live reference" in found.reason
    assert len(found.experiments) == 1


def test_what_cannot_be_put_in_is_not_confirmed() -> None:
    assert status(way("take_away"), way("put_in", alone=0.5)) == "inconclusive"


@pytest.mark.parametrize("name", ["replace-op", "substitute", "compile-as"])
def test_a_transplant_is_located_whatever_the_other_direction_says(name: str) -> None:
    carried = replace(way("take_away"), interventions=(Intervention(name, "mm#0", "mm#0"),))
    assert status(carried, way("put_in")) == "located"


def test_outputs_that_agree_prove_nothing() -> None:
    found = concluded(cause(), way("take_away", before=0.0, alone=0.25), way("put_in"))
    assert found.status == "inconclusive"
    assert "agree as they are" in found.reason


def test_what_changes_nothing_is_inert() -> None:
    found = concluded(cause(), way("take_away", alone=1.0), untried())
    assert (found.status, found.inert) == ("refuted", True)


def test_what_changes_nothing_taken_away_but_something_put_in_is_not_inert() -> None:
    found = concluded(cause(), way("take_away", alone=1.0), way("put_in", alone=0.5))
    assert not found.inert
    assert found.status != "confirmed"


def test_a_change_that_makes_it_worse_is_refuted() -> None:
    assert status(way("take_away", before=1.5e-5, alone=2.7e-2), untried()) == "refuted"


def test_of_several_causes_each_one_must_matter() -> None:
    apart = {"alone": 0.5, "every": 0.0}
    assert status(way("take_away", others=0.25, **apart), way("put_in", others=0.25, **apart)) == "confirmed"
    assert status(way("take_away", others=0.0, **apart), way("put_in", others=0.25, **apart)) == "refuted"
    assert status(way("take_away", others=0.25, **apart), way("put_in", others=0.0, **apart)) == "inconclusive"


def test_a_part_of_the_difference_is_confirmed_by_its_origins() -> None:
    mine = {"alone": 0.5, "mine": frozenset({"mm#0"})}
    gone, stay = {**mine, "left": frozenset({"add#0"})}, {**mine, "left": frozenset({"mm#0"})}
    assert status(way("take_away", **gone), way("put_in", **gone)) == "confirmed"
    assert status(way("take_away", **gone), way("put_in", **stay)) == "inconclusive"
    assert status(way("take_away", **stay), untried()) == "refuted"
    assert status(way("take_away", alone=0.5), untried()) == "inconclusive"


def test_origins_that_vanish_without_moving_the_outputs_confirm_nothing() -> None:
    gone = {"alone": 0.5, "mine": frozenset({"mm#0"}), "left": frozenset({"add#0"})}
    found = concluded(cause(), way("take_away", unfelt=True, **gone), way("put_in", **gone))
    assert found.status == "inconclusive"
    assert "the outputs do not move" in found.reason
    assert status(way("take_away", **gone), way("put_in", unfelt=True, **gone)) == "inconclusive"


def test_rounding_that_is_left_counts_as_nothing() -> None:
    away = way("take_away", alone=1e-7, rounding="in float64 they agree")
    assert status(away, way("put_in", alone=1e-7, rounding="in float64 they agree")) == "confirmed"
    assert status(away, way("put_in", alone=1e-7)) == "inconclusive"


def test_a_remedy_counts_as_carried_out_only_if_it_is_the_change_that_was_proven() -> None:
    for same_change in (True, False):
        one = cause(remedy=Remedy("load it", undoes="either" if same_change else ""))
        found = concluded(one, way("take_away"), way("put_in")).remedy
        assert found is not None and found.carried_out is same_change
        found = concluded(one, way("take_away"), untried()).remedy
        assert found is not None and not found.carried_out


@pytest.mark.parametrize(("every", "together", "left"), [(0.0, "", "others"), (0.1, "rounding", "others_rounding")])
def test_what_all_causes_together_leave_is_as_the_experiment_showed(every: float, together: str, left: str) -> None:
    facts: dict[str, Any] = {"alone": 0.5, "every": every, "others": 0.25, "together": together}
    found = concluded(cause(), way("take_away", **facts), way("put_in", **facts))
    assert found.status == "confirmed" and {e.left for e in found.experiments} == {left}


def test_a_remedy_that_leaves_a_part_of_the_difference_is_not_said_to_have_cured_it() -> None:
    one = cause(remedy=Remedy("load it", undoes="either"))
    part = {"alone": 0.5, "mine": frozenset({"mm#0"}), "left": frozenset({"add#0"})}
    joint = {"alone": 0.5, "every": 0.0, "others": 0.25}
    for facts in (part, joint):
        found = concluded(one, way("take_away", **facts), way("put_in", **facts))
        assert found.status == "confirmed" and found.remedy is not None and not found.remedy.carried_out


def test_a_remedy_that_needs_draws_to_begin_alike_says_so_once() -> None:
    away = replace(way("take_away"), interventions=(HERE, Intervention("draw-from", "0", "1")))
    found = cause(remedy=Remedy("Set p.", "m.p = 1\n", undoes="either"))
    for _ in range(2):
        found = concluded(found, away, way("put_in"))
        assert found.status == "confirmed" and found.remedy is not None and not found.remedy.carried_out
        assert found.remedy.text.count("seed both there") == found.remedy.code.count("the same seed") == 1
    plain = concluded(cause(remedy=Remedy("Set p.", undoes="reference")), away, way("put_in")).remedy
    assert plain is not None and plain.carried_out and plain.text == "Set p."


def test_what_changes_nothing_in_a_program_that_stopped_on_the_way_is_not_inert() -> None:
    stopped = replace(outcome(1.0), stopped=":sparse#0")
    found = concluded(cause(), replace(way("take_away", alone=1.0), alone=stopped), untried())
    assert found.status == "inconclusive" and not found.inert
    assert found.reason.startswith(":sparse#0 cannot be executed again")


@pytest.mark.parametrize(
    ("noise", "alone", "expected"),
    [(True, 1.1, "confirmed"), (False, 1.1, "refuted"), (True, 8.0, "refuted"), (True, 0.9, "confirmed")],
    ids=["chance", "no rounding", "another class of precision", "smaller"],
)
def test_what_is_left_of_a_rounding_may_be_a_little_larger_by_chance(noise: bool, alone: float, expected: str) -> None:
    mine = frozenset({"mm#0"})
    ways = [
        way(direction, alone=alone, mine=mine, left=frozenset({"add#0"}), noise=noise)
        for direction in ("take_away", "put_in")
    ]
    assert status(*ways) == expected


@pytest.mark.parametrize(
    ("alone", "hidden", "expected"), [(9.0, True, "inconclusive"), (9.0, False, "confirmed"), (0.5, True, "confirmed")]
)
def test_what_only_repairs_what_parts_of_the_other_run_broke_is_not_confirmed(
    alone: float, hidden: bool, expected: str
) -> None:
    ways = (way(one, alone=alone, every=0.0, others=0.7, hidden=hidden) for one in ("take_away", "put_in"))
    assert status(*ways) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("alone", "expected"), [(1e-7, "inconclusive"), (1e-2, "refuted")])
def test_what_leaves_no_more_than_rounding_may_is_not_refuted_by_places_that_remain(
    alone: float, expected: str
) -> None:
    away = way("take_away", alone=alone, mine=frozenset({"mm"}), left=frozenset({"mm"}))
    assert status(away, untried()) == expected


def test_a_part_of_the_other_run_that_leads_farther_away_refutes_nothing() -> None:
    carried = replace(way("take_away", alone=9.0), interventions=(Intervention("replace-op", "mm#0", "mm#0"),))
    assert (status(carried, untried()), status(way("take_away", alone=9.0), untried())) == ("inconclusive", "refuted")
