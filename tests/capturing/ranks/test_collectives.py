"""What a trace says of collectives: every kind, synchronous and not, with values that are known beforehand."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import DiskTrace, RankedTrace, open_side, open_trace
from whydiff.capturing.store.reader import open_ranks
from whydiff.errors import TraceFormatError
from whydiff.explain.causes._rank_runs import recorded
from whydiff.pair.replay import replay
from whydiff.records import Call, Collective, Fingerprint

torch = pytest.importorskip("torch")


def everything(rank: int, ranks: int) -> None:
    """A model that calls each collective once, and reads what it wrote."""
    import torch.distributed as dist
    import torch.distributed._functional_collectives as functional

    warnings.simplefilter("ignore")  # of names that newer versions call otherwise

    def mine() -> torch.Tensor:  # 0 1 2 3 and 10 11 12 13
        return torch.arange(4.0) + 10 * rank

    class Everything(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self) -> list[torch.Tensor]:
            found = []
            x = mine()
            dist.all_reduce(x)
            found.append(x * 1)
            x = mine()
            dist.all_reduce(x, op=dist.ReduceOp.MAX)
            found.append(x * 1)
            x = mine()
            work = dist.all_reduce(x, async_op=True)
            y = torch.ones(4) * 3
            work.wait()
            found.append(x + y)
            x = mine()
            dist.broadcast(x, 1)
            found.append(x * 1)
            parts = [torch.empty(4) for _ in range(2)]
            dist.all_gather(parts, mine())
            found.append(torch.cat(parts))
            out = torch.empty(8)
            dist.all_gather_into_tensor(out, mine())
            found.append(out * 1)
            out = torch.empty(2)
            dist.reduce_scatter_tensor(out, mine())
            found.append(out * 1)
            out = torch.empty(4)
            dist.all_to_all_single(out, mine())
            found.append(out * 1)
            x = mine()
            if rank == 0:
                dist.send(x, 1)
            else:
                dist.recv(x, 0)
            found.append(x * 1)
            dist.barrier()
            found.append(functional.all_reduce(mine(), "sum", dist.group.WORLD) * 1)
            found.append(functional.all_gather_tensor(mine(), 0, dist.group.WORLD) * 1)
            x = mine()
            dist.reduce(x, 0)
            found.append(x * 1 if rank == 0 else mine() * 1)
            return [self.weight * x.sum() for x in found]

    Everything()()


SUM, MAX = [10.0, 12.0, 14.0, 16.0], [10.0, 11.0, 12.0, 13.0]
BOTH = [0.0, 1.0, 2.0, 3.0, 10.0, 11.0, 12.0, 13.0]
WRITTEN: tuple[tuple[str, Any, Any], ...] = (
    ("all-reduce", SUM, SUM),
    ("all-reduce", MAX, MAX),
    ("all-reduce", SUM, SUM),
    ("broadcast", MAX, MAX),
    ("all-gather", BOTH, BOTH),
    ("all-gather", BOTH, BOTH),
    ("reduce-scatter", SUM[:2], SUM[2:]),
    ("all-to-all", [0.0, 1.0, 10.0, 11.0], [2.0, 3.0, 12.0, 13.0]),
    ("send/recv", None, [0.0, 1.0, 2.0, 3.0]),
    ("barrier", None, None),
    ("all-reduce", SUM, SUM),
    ("all-gather", BOTH, BOTH),
    ("reduce", SUM, None),
)
"""Kind, and what rank 0 and rank 1 hold afterwards; None: nothing that counts."""


@pytest.fixture(scope="module")
def traces() -> dict[int, DiskTrace]:
    found, unreadable = open_ranks(Path(recorded(everything, 2)), trust=True)
    assert (sorted(found), unreadable) == ([0, 1], {})
    return found


def exchanges(trace: DiskTrace) -> list[tuple[Collective, Call]]:
    return [(told, call) for call in trace.calls if (told := Collective.of(call.arguments)) is not None]


@pytest.mark.parametrize("rank", [0, 1])
def test_every_collective_is_there_with_its_ranks_and_the_values_that_it_wrote(
    traces: dict[int, DiskTrace], rank: int
) -> None:
    found = exchanges(traces[rank])
    kinds = [("send/recv" if told.kind in ("send", "recv") else told.kind) for told, _ in found]
    assert kinds == [kind for kind, *_ in WRITTEN]
    assert all(told.ranks == (0, 1) for told, _ in found)
    assert [told.reduce for told, _ in found if told.kind == "all-reduce"] == ["sum", "max", "sum", "sum"]
    for (told, call), (_, *values) in zip(found, WRITTEN, strict=True):
        if values[rank] is not None:
            payloads = [traces[rank].payload(event.payload) for event in call.writes]
            assert np.concatenate([p.bits for p in payloads if p is not None]).tolist() == values[rank], told


@pytest.mark.parametrize("rank", [0, 1])
def test_what_follows_reads_what_the_collective_wrote(traces: dict[int, DiskTrace], rank: int) -> None:
    trace = traces[rank]
    written = {(e.storage, call.index): e.fingerprint for _, call in exchanges(trace) for e in call.writes}
    read: list[tuple[Fingerprint | None, Fingerprint | None]] = [
        (event.fingerprint, written[event.storage, event.producer])
        for call in trace.calls
        for event in call.reads
        if (event.storage, event.producer) in written and not event.is_look
    ]
    assert len(read) >= 10
    assert all(ours is not None and ours == theirs for ours, theirs in read)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_is_replayed_alone_with_what_it_received(traces: dict[int, DiskTrace], rank: int) -> None:
    trace = traces[rank]
    assert trace.complete, trace.note
    assert {call.site.rank for call in trace.calls} == {rank}
    unfaithful: list[str] = []

    def watch(executor: Any, call: Call) -> None:
        if executor.faithful(call) is False:
            unfaithful.append(str(call.site))

    done = replay(for_framework("torch").executor(trace), watch=watch)
    assert (done.failed, unfaithful) == ((), [])
    assert _sums(list(done.outputs.values())) == _sums([output.payload for output in trace.outputs or ()])


def _sums(payloads: Sequence[Any]) -> list[float]:
    return [float(payload.bits.sum()) for payload in payloads]


def test_the_whole_folder_is_not_taken_for_one_rank(traces: dict[int, DiskTrace]) -> None:
    with pytest.raises(TraceFormatError, match="several ranks"):
        open_trace(traces[0].directory.parent)


def test_a_rank_whose_part_cannot_be_read_is_missing(traces: dict[int, DiskTrace], tmp_path: Path) -> None:
    whole = shutil.copytree(traces[0].directory.parent, tmp_path / "two.trace")
    (whole / "rank-00001" / "manifest.json").unlink()
    side = open_side(whole)
    assert isinstance(side, RankedTrace) and [*side.parts] == [0] and side.missing == (1,)


def waiting(rank: int, ranks: int) -> None:
    import torch.distributed as dist

    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            x, y = torch.ones(3), torch.ones(2, 3)
            work = dist.all_reduce(x, async_op=True)
            torch.matmul(y, y.T)  # in inference mode it arrives whole, and is taken apart
            work.wait()
            x + 1


def test_an_op_of_several_does_not_end_the_waiting_for_a_collective() -> None:
    for trace in open_ranks(Path(recorded(waiting, 2)))[0].values():
        written = [trace.payload(call.writes[0].payload) for _, call in exchanges(trace)]
        assert [None if one is None else one.bits.tolist() for one in written] == [[2.0, 2.0, 2.0]] * 2
