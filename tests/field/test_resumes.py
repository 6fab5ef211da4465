"""What was not restored when a run was resumed is named, and nothing else."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from tests.field import resumes

from whydiff.capturing.record import capture
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict


@cache
def diagnosis(name: str) -> Diagnosis:
    """Several tests look at one."""
    return compare(*getattr(resumes, name)())


@pytest.mark.parametrize("name", ["everything", "random_state_unused", "by_hand"])
def test_a_right_resume_is_identical(name: str) -> None:
    found = diagnosis(name)
    assert found.verdict is Verdict.IDENTICAL, found.reason
    assert not found.causes


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("optimizer", {"TR002", "TR003"}),
        ("random_state", {"MD002"}),
        ("scheduler", {"TR003"}),
        ("momentum", {"TR002"}),
        ("count", {"TR002"}),
    ],
)
def test_what_was_not_restored_is_named_and_proven(name: str, codes: set[str]) -> None:
    found = diagnosis(name)
    assert found.verdict is Verdict.SEMANTIC, found.reason
    assert {(cause.code, cause.status) for cause in found.causes} == {(code, "confirmed") for code in codes}
    assert found.alignment.ahead == resumes.RESUMED
    for cause in found.causes:
        assert [experiment.direction for experiment in cause.experiments] == ["take_away", "put_in"]


@pytest.mark.parametrize("name", ["momentum_within_one_run", "momentum_of_the_tail"])
def test_lost_momentum_is_the_only_cause_where_both_runs_have_as_many_steps(name: str) -> None:
    found = diagnosis(name)
    assert found.verdict is Verdict.SEMANTIC, found.reason
    (lost,) = found.causes
    assert (lost.code, lost.status) == ("TR002", "confirmed")
    assert lost.evidence[0].data["names"] == ["momentum_buffer"]


def test_traces_blame_no_formula_for_lost_momentum(tmp_path: Path) -> None:
    paths = [str(tmp_path / side) for side in ("reference", "candidate")]
    for path, run in zip(paths, resumes.momentum_of_the_tail(), strict=True):
        with capture(path):
            run()
    found = compare(*paths)
    assert found.verdict is Verdict.SEMANTIC, found.reason
    (lost,) = found.causes
    assert (lost.code, lost.status) == ("TR002", "inconclusive")


def test_what_of_the_state_differs_is_named() -> None:
    (lost,) = diagnosis("momentum").causes
    assert lost.evidence[0].data["names"] == ["momentum_buffer"]
    assert lost.evidence[0].data["lacking"] == ["candidate"]
    (counted,) = diagnosis("count").causes
    assert counted.evidence[0].data["names"] == ["step"]


def test_all_that_was_lost_at_once_is_named_and_proven_together() -> None:
    found = diagnosis("nothing")
    assert found.verdict is Verdict.SEMANTIC
    lost = ("MD002", "TR002", "TR003")
    assert {(cause.code, cause.status) for cause in found.causes} == {(code, "confirmed") for code in lost}


def test_the_remedy_of_a_lost_scheduler_is_its_state() -> None:
    (cause,) = diagnosis("scheduler").causes
    assert cause.remedy is not None
    assert "scheduler.load_state_dict" in cause.remedy.code
    assert cause.says.startswith("the candidate's optimizer has lr ") and "the reference's " in cause.says
