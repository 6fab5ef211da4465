"""Two GPUs with NCCL against one: tensor parallel, and a step of FSDP2 and of DDP; and logs of their steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import whydiff
from whydiff.records import Diagnosis, Verdict

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="less than two GPUs")

PROGRAM = Path(__file__).with_name("rank_program.py")
SECONDS = 240


def captured(folder: Path, way: str, dtype: str, ranks: int, level: str = "op") -> str:
    """The trace of a program under torchrun with NCCL; of one rank: alone on one GPU."""
    trace = folder / f"{way}-{dtype}-{ranks}-{level}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, "-m", "whydiff.cli", "capture", "--level", level, "-o", str(trace), "--"]
    subprocess.run(
        [*command, sys.executable, *launcher, str(PROGRAM), way, dtype],
        check=True,
        timeout=SECONDS,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return str(trace)


def proven(found: Diagnosis) -> dict[str, str]:
    return {cause.code: cause.status for cause in found.causes}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", ["tensor", "fsdp", "ddp"])
def test_two_gpus_against_one_is_rounding_at_the_reductions(way: str, dtype: str, tmp_path: Path) -> None:
    one, two = captured(tmp_path, way, dtype, 1), captured(tmp_path, way, dtype, 2)
    found: Any = whydiff.compare(one, two)
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL), found.reason
    assert set(proven(found)) <= {"DS001"}, proven(found)
    assert whydiff.check_ranks(two).verdict is Verdict.IDENTICAL


def test_a_replica_that_drifts_is_named_by_a_log_of_steps(tmp_path: Path) -> None:
    found = whydiff.check_ranks(captured(tmp_path, "drift", "float32", 2, "step"))
    assert found.replicas.drifts, (found.reason, found.notes, found.replicas)
    one, *_ = found.replicas.drifts  # what it makes of the others' gradients comes later
    assert (found.verdict, one.name, one.step, one.since, one.ranks) == (Verdict.SEMANTIC, "head.weight", 3, 2, (1,))
    assert whydiff.check_ranks(captured(tmp_path, "ddp", "bfloat16", 2, "step")).verdict is Verdict.IDENTICAL
