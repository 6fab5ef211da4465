"""Replicas that drift are named with step and parameter; shards, and what begins with zeros or ones, are not."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.rank_programs import gpt, recorded_once, replicas

import whydiff
from whydiff.errors import UsageError
from whydiff.explain.causes._rank_runs import averaged, drifting, recorded
from whydiff.records import Verdict
from whydiff.studies.ranks import RanksReport

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def drifted() -> RanksReport:
    return whydiff.check_ranks(recorded_once(replicas(2.0**-23), 2))


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
    found = whydiff.check_ranks(recorded_once(averaged, 2))
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
    assert (found.never, found.parted) == ((), ("bias", "weight"))
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
    assert not whydiff.check_ranks(recorded_once(averaged, 2)).notes
    (note,) = whydiff.check_ranks(recorded(same_rows, 2)).notes
    assert "rows not split" in note


def same_rows(rank: int, ranks: int) -> None:
    """Data parallel, and nobody splits the rows."""
    averaged(0, 1)
    torch.distributed.all_reduce(torch.ones(1))


def test_the_trace_of_one_process_is_refused() -> None:
    with pytest.raises(UsageError, match="no trace of several ranks"):
        whydiff.check_ranks(recorded_once(averaged))


def _trained(model: Any, rank: int, ranks: int, after: Any = None, pieces: int = 1, kept: str = "") -> None:
    """Data-parallel steps; ``after`` is called after each, ``pieces``: smaller batches of a step."""
    for x in torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(1)):
        for part in x.chunk(ranks)[rank].chunk(pieces):
            (model(part).square().mean() / pieces).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name != kept:
                    torch.distributed.all_reduce(parameter.grad)
                parameter.sub_(parameter.grad, alpha=0.05)
                parameter.grad = None
            if after is not None:
                after()


def looked(rank: int, ranks: int) -> None:
    """Rank 0 evaluates on its own."""
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(6, 3)
    _trained(model, rank, ranks, (lambda: model(torch.ones(1, 6))) if rank == 0 else None)


def in_pieces(rank: int, ranks: int) -> None:
    """Rank 1 takes its rows in two smaller batches."""
    torch.manual_seed(0)
    _trained(torch.nn.Linear(6, 3), rank, ranks, pieces=1 + rank)


@pytest.mark.parametrize("program", [looked, in_pieces])
def test_passes_of_one_rank_alone_make_no_drift(program: Any) -> None:
    found = whydiff.check_ranks(recorded(program, 2))
    assert (found.verdict, found.replicas.drifts, found.replicas.equal) == (Verdict.IDENTICAL, (), ("bias", "weight"))


def stopped(rank: int, ranks: int) -> None:
    """Rank 1 updates its weight once and then no more."""
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(6, 3)
    for number, x in enumerate(torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(1))):
        model(x).square().mean().backward()
        torch.distributed.all_reduce(model.weight.grad)
        with torch.no_grad():
            if rank == 0 or number < 1:
                model.weight.sub_(model.weight.grad, alpha=0.05)
        model.weight.grad = None


def test_a_replica_that_one_rank_no_more_updates_drifts() -> None:
    (one,) = whydiff.check_ranks(recorded(stopped, 2)).replicas.drifts
    assert (one.name, one.ranks, one.since) == ("weight", (1,), 1)


def normed(rank: int, ranks: int) -> None:
    """Running statistics that rank 0 sends to all before each pass, as DDP does."""
    torch.manual_seed(0)
    layer = torch.nn.BatchNorm1d(6)
    torch.nn.init.uniform_(layer.running_mean)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(6, 6), layer))
    for x in torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(1)):
        model(x.chunk(ranks)[rank]).square().mean().backward()


def test_what_is_sent_before_it_is_used_does_not_drift() -> None:
    found = whydiff.check_ranks(recorded(normed, 2))
    assert (found.verdict, found.replicas.drifts, found.replicas.parted) == (Verdict.IDENTICAL, (), ())


def kept_apart(rank: int, ranks: int) -> None:
    """A bias of zeros whose gradients nobody averages."""
    torch.manual_seed(0)
    model: Any = torch.nn.Linear(6, 3)
    torch.nn.init.zeros_(model.bias)
    _trained(model, rank, ranks, kept="bias")


def test_what_began_as_zeros_and_differs_is_called_neither_right_nor_wrong() -> None:
    found = whydiff.check_ranks(recorded(kept_apart, 2))
    assert (found.verdict, found.replicas.parted, found.replicas.never) == (Verdict.INCONCLUSIVE, ("bias",), ())
    assert "bias began as zeros or ones" in dict(found.answer())[""]


def in_two_ways(drift: bool, rank: int, ranks: int) -> None:
    """Ranks 0 and 2 hold one half of a model, 1 and 3 the other; each pair splits the rows."""
    torch.manual_seed(10 + rank % 2)
    model: Any = torch.nn.Linear(6, 3)
    pair = [torch.distributed.new_group([0, 2]), torch.distributed.new_group([1, 3])][rank % 2]
    for number, x in enumerate(torch.randn(4, 8, 6, generator=torch.Generator().manual_seed(1))):
        if drift and rank == 2 and number == 2:
            with torch.no_grad():
                model.weight += 1
        model(x.chunk(2)[rank // 2]).square().mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                torch.distributed.all_reduce(parameter.grad, group=pair)
                parameter.sub_(parameter.grad, alpha=0.05)
                parameter.grad = None


def test_replicas_of_some_ranks_are_followed_too() -> None:
    found = whydiff.check_ranks(recorded(partial(in_two_ways, False), 4))
    assert found.verdict is Verdict.IDENTICAL
    assert found.replicas.partly == (("bias", ((0, 2), (1, 3))), ("weight", ((0, 2), (1, 3))))
    found = whydiff.check_ranks(recorded(partial(in_two_ways, True), 4))
    (weight, *_) = found.replicas.drifts
    assert (found.verdict, weight.name, weight.among, weight.step) == (Verdict.SEMANTIC, "weight", (0, 2), 2)
    assert "equal on ranks 0, 2" in dict(found.answer())["where"]
