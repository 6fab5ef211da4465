"""The search over differences, with a made-up program instead of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.errors import UsageError
from whydiff.studies.matrix import Pairing, Setting, settings
from whydiff.studies.matrix.bisect import INTERPRETER, Bisection, differences, mixed
from whydiff.studies.matrix.records import Responsible
from whydiff.studies.matrix.study import causes_of

NAMES = [f"V{i}" for i in range(9)]


def search(names: list[str], bits: Callable[[frozenset[str]], str | None]) -> Bisection:
    ours, theirs = Setting("py"), Setting("py", tuple((name, "1") for name in sorted(names)))
    return Bisection(ours, theirs, lambda setting: bits(frozenset(name for name, _ in setting.variables)))


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.data())
def test_one_responsible_variable_is_found_and_proven(names: set[str], data: st.DataObject) -> None:
    one = data.draw(st.sampled_from(sorted(names)))
    found = search(sorted(names), lambda taken: "other" if one in taken else "same")
    assert found.find() == (one,)
    judged = found.judge(one, ())
    assert (judged.alone, judged.without) == ("reproduces", "agrees")
    assert found.runs <= 2 * len(names).bit_length() + 2


@given(st.sets(st.sampled_from(NAMES), min_size=2), st.data())
def test_all_independent_variables_are_found(names: set[str], data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    found = search(sorted(names), lambda taken: ",".join(sorted(taken & guilty)))
    assert set(found.find()) == guilty
    for name in guilty:
        alone = "reproduces" if guilty == {name} else "differs"
        assert found.judge(name, ()).alone == alone


@given(st.sets(st.sampled_from(NAMES), min_size=2), st.data())
def test_what_is_found_together_gives_the_candidates_bits(names: set[str], data: st.DataObject) -> None:
    pair = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=2, max_size=2))
    found = search(sorted(names), lambda taken: "other" if pair <= taken else "same")
    assert pair <= set(found.find())
    assert found.judge(min(pair), ()).alone == "agrees"


def test_an_environment_that_fails_is_named_and_does_not_end_the_search() -> None:
    found = search(["A", "B", "C"], lambda t: None if t == frozenset("A") else "other" if "C" in t else "same")
    assert found.find() == ("C",)
    assert found.unknown == ["A=1"]


def test_the_interpreter_is_one_difference() -> None:
    ours, theirs = Setting("old", (("A", "1"),)), Setting("new", (("B", None),))
    assert differences(ours, theirs) == (INTERPRETER, "A", "B")
    assert mixed(ours, theirs, [INTERPRETER]) == Setting("new", (("A", "1"),))
    assert mixed(ours, theirs, ["A", "B"]) == Setting("old", (("B", None),))
    assert mixed(ours, theirs, [INTERPRETER, "A", "B"]) == theirs


def test_settings_are_interpreters_times_variables_the_plain_one_first() -> None:
    import sys

    found = settings([sys.executable], ["B='two words' A=1", "-A"])
    assert [s.variables for s in found] == [(), (("A", "1"), ("B", "two words")), (("A", None),)]
    assert found[1].variables_text == "A=1 B=two words"
    assert settings([sys.executable], ["A=1", "A=2"], plain=False)[0].variables == (("A", "1"),)


@pytest.mark.parametrize("text", ["A", "=1", "1A=2", "'A=1", "--A"])
def test_bad_sets_of_variables_are_refused(text: str) -> None:
    import sys

    with pytest.raises(UsageError) as error:
        settings([sys.executable], [text])
    assert error.value.where == "--env"


def test_one_environment_is_no_matrix() -> None:
    import sys

    with pytest.raises(UsageError, match="at least two"):
        settings([sys.executable], [])
    with pytest.raises(UsageError, match="no such interpreter"):
        settings(["no-such-python"], ["A=1"])


def test_differences_of_which_the_rest_would_do_as_well_are_not_proven() -> None:
    either = search(["A", "B"], lambda taken: "other" if taken else "same")
    found = either.find()
    assert len(found) == 1 and not either.proven(found)
    both = search(["A", "B", "C"], lambda taken: ",".join(sorted(taken & {"A", "B"})))
    assert both.proven(both.find()) and not both.proven(["A"])


@pytest.mark.parametrize(
    ("alone", "proven", "status"),
    [
        ("reproduces", True, "confirmed"),
        ("reproduces", False, "located"),
        ("differs", True, "confirmed"),
        ("differs", False, "inconclusive"),
        ("agrees", True, "inconclusive"),
    ],
)
def test_what_is_said_of_a_difference_is_what_was_shown(alone: Any, proven: bool, status: str) -> None:
    one = Responsible("A 0 → 1", (("variables.A", "0", "1"),), alone, "agrees")
    (cause,) = causes_of(one, Pairing(0, 1, "rounding", "", ()), proven)
    assert cause.status == status
    carried = cause.experiments[0]
    assert carried.direction == "put_in"
    assert ("candidate's bits" in carried.prediction) == (alone != "differs")
