"""Replicas that drift are named with step and parameter; shards, and what begins with zeros or ones, are not."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.rank_programs import gpt, replicas

import whydiff
from whydiff.errors import UsageError
from whydiff.explain.causes._rank_examples import averaged, drifting
from whydiff.explain.causes._rank_runs import recorded
from whydiff.records import Verdict
from whydiff.studies.ranks import RanksReport

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def drifted() -> RanksReport:
    return whydiff.check_ranks(recorded(replicas(2.0**-23), 2))


def test_a_weight_that_differs_by_one_unit_in_the_last_place_is_named_with_its_step(drifted: RanksReport) -> None:
    (one,) = drifted.replicas.drifts
    assert (drifted.verdict, one.name, one.step, one.since, one.ranks) == (Verdict.SEMANTIC, "weight", 3, 2, (1,))
    assert (one.site.op, one.site.step, one.site.rank) == ("addmm", 3, 1)
    assert drifted.replicas.equal == ("bias",)
    assert "weight holds other bits on rank 1 from step 3 on" in dict(drifted.answer())[""]


def test_of_three_ranks_the_one_that_differs_from_the_others_is_named() -> None:
    (one,) = whydiff.check_ranks(recorded(first_of_three, 3)).replicas.drifts
    assert (one.name, one.step, one.ranks, one.site.rank) == ("weight", 2, (0,), 0)


def first_of_three(rank: int, ranks: int) -> None:
    """Rank 0 does what `replicas` has rank 1 do."""
    replicas(2.0**-23, 2)(1 if rank == 0 else 2, ranks)


def test_a_rank_that_left_nothing_is_named_and_nothing_is_called_right() -> None:
    path = recorded(replicas(0.0), 3)
    shutil.rmtree(Path(path) / "rank-00002")
    found = whydiff.check_ranks(path)
    assert (found.verdict, found.ends) == (Verdict.INCONCLUSIVE, ((2, "it left nothing"),))


def test_the_report_can_be_kept(drifted: RanksReport, tmp_path: Path) -> None:
    drifted.save(str(tmp_path / "found.md"))
    assert "weight" in (tmp_path / "found.md").read_text()
    assert drifted.to_dict()["replicas"]["drifts"][0]["step"] == 3


def test_replicas_that_stay_equal_are_counted() -> None:
    found = whydiff.check_ranks(recorded(averaged, 2))
    assert (found.verdict, found.replicas.drifts) == (Verdict.IDENTICAL, ())
    assert found.replicas.equal == ("0.bias", "0.weight", "2.bias", "2.weight")
    assert (found.replicas.steps, found.replicas.never, found.replicas.alone) == (3, (), ())


def test_a_weight_that_one_rank_changes_between_steps_drifts_before_what_follows_from_it() -> None:
    found = whydiff.check_ranks(recorded(drifting, 2)).replicas
    assert [(drift.name, drift.step) for drift in found.drifts] == [("0.weight", 1)]


@pytest.mark.parametrize("way", ["ddp", "tensor", "fsdp"])
def test_parallel_training_has_no_replica_that_drifts(way: str) -> None:
    found = whydiff.check_ranks(recorded(gpt(way, "float32", 3), 2))
    assert (found.verdict, found.replicas.drifts) == (Verdict.IDENTICAL, ())
    assert bool(found.replicas.never) == (way == "tensor")
    assert len(found.replicas.equal) == {"ddp": 36, "tensor": 16, "fsdp": 0}[way]


def test_what_begins_as_zeros_or_ones_and_is_trained_apart_is_no_replica() -> None:
    found = whydiff.check_ranks(recorded(sharded, 2)).replicas
    assert (found.drifts, found.equal) == ((), ())
    assert found.never == ("bias", "weight")
    found = whydiff.check_ranks(recorded(partial(sharded, begin=0.5), 2)).replicas
    assert {drift.name for drift in found.drifts} == {"bias", "weight"}


def sharded(rank: int, ranks: int, begin: float = 1.0) -> None:
    """Each rank trains a layer of its own, which begins with ones and zeros everywhere."""
    model: Any = torch.nn.Linear(8, 4)
    with torch.no_grad():
        model.weight.fill_(begin)
        model.bias.fill_(begin - 1)
    for _ in range(3):
        (model(torch.ones(2, 8)) * (rank + 1)).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None


def test_ranks_that_are_all_given_the_same_rows_are_worth_a_note() -> None:
    assert not whydiff.check_ranks(recorded(averaged, 2)).notes
    (note,) = whydiff.check_ranks(recorded(same_rows, 2)).notes
    assert "rows not split" in note


def same_rows(rank: int, ranks: int) -> None:
    """Data parallel, and nobody splits the rows."""
    averaged(0, 1)
    torch.distributed.all_reduce(torch.ones(1))


def test_the_trace_of_one_process_is_refused() -> None:
    with pytest.raises(UsageError, match="no trace of several ranks"):
        whydiff.check_ranks(recorded(averaged))
