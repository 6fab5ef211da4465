"""Ranks that call different collectives are named, with the place; also where they hang."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.rank_programs import gpt, mismatched, recorded_once
from tests.ranked import SECONDS, environment, free_port

import whydiff
from whydiff.explain.causes._rank_runs import recorded
from whydiff.records import Verdict

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("kind", "broadcast among ranks 0, 1 from rank 0 of float32[2, 4]"),
        ("shape", "all-reduce (sum) among ranks 0, 1 of float32[1, 4]"),
        ("dtype", "all-reduce (sum) among ranks 0, 1 of float64[2, 4]"),
        ("reduction", "all-reduce (max) among ranks 0, 1 of float32[2, 4]"),
        ("missing", "nothing more"),
    ],
)
def test_a_rank_that_calls_another_collective_is_named_with_its_call(how: str, said: str) -> None:
    found = whydiff.check_ranks(recorded_once(mismatched(how), 2))
    assert found.verdict is Verdict.SEMANTIC
    (one,) = found.mismatches
    assert one.number == 4
    assert [step.rank for step in one.steps] == [0, 1]
    assert [step.what for step in one.steps] == ["all-reduce (sum) among ranks 0, 1 of float32[2, 4]", said]
    assert "@step 1" in one.steps[0].site
    assert "rank 1 calls " + said.partition(" of ")[0] in dict(found.answer())[""]


def test_ranks_that_call_the_same_are_no_finding() -> None:
    found = whydiff.check_ranks(recorded_once(mismatched("same"), 2))
    assert (found.verdict, found.mismatches, found.collectives) == (Verdict.IDENTICAL, (), (4, 4))
    found = whydiff.check_ranks(recorded_once(gpt("tensor", "float32"), 2))
    assert (found.verdict, found.mismatches) == (Verdict.IDENTICAL, ())


def test_groups_are_looked_at_apart_and_what_is_sent_must_be_what_is_received() -> None:
    found = whydiff.check_ranks(recorded(in_groups, 3))
    (one,) = found.mismatches
    assert [step.what for step in one.steps] == [
        "send among ranks 0, 1 to rank 1 of float32[2, 4]",
        "recv among ranks 0, 1 from rank 0 of float32[1, 4]",
    ]
    assert (one.line.ranks, one.line.is_sent) == ((0, 1), True)
    assert one.place == f"collective 1 of ranks 0 to 1 in group {one.line.group}"


def in_groups(rank: int, ranks: int) -> None:
    """Two groups of three ranks; in the first, rank 1 receives less than rank 0 sends."""
    import torch.distributed as dist
    from torch.testing._internal.distributed import fake_pg  # noqa: F401 - its import makes the backend known

    low, high = dist.new_group([0, 1], backend="fake"), dist.new_group([1, 2], backend="fake")
    x = torch.nn.Linear(4, 4)(torch.ones(2, 4)).detach()
    if rank < 2:
        dist.all_reduce(x, group=low)
    if rank > 0:
        dist.broadcast(x, 1, group=high)
    if rank == 0:
        dist.send(x, 1, group=low)
    if rank == 1:
        dist.recv(x[:1].clone(), 0, group=low)


HANGING = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.nn.Linear(4, 4)(torch.ones(2, 4)).detach()
dist.all_reduce(x)
open(f"ready-{dist.get_rank()}", "w").close()
if dist.get_rank() == 0:
    dist.all_reduce(x)
else:
    dist.recv(x, 0)
"""


def test_of_ranks_that_wait_for_each_other_forever_it_is_known_where(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(HANGING)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port()), "program.py"]
    child = subprocess.Popen(
        [sys.executable, "-m", "whydiff.cli", "capture", "-o", "run.trace", "--", sys.executable, *torchrun],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + SECONDS
    lines = [tmp_path / "run.trace" / f"rank-0000{rank}" / "exchanges.jsonl" for rank in range(2)]
    while time.monotonic() < until and not all(f.exists() and f.read_text().count('"call"') == 2 for f in lines):
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    child.wait(SECONDS)
    found = whydiff.check_ranks(tmp_path / "run.trace")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert [(step.rank, step.what.partition(" ")[0]) for step in found.stands] == [(0, "all-reduce"), (1, "recv")]
    assert {rank for rank, _ in found.ends} == {0, 1}
