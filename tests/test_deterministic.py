"""The tool's own determinism: a comparison of the same files gives the same JSON, whatever the seed of Python's hashes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.scores.changed_traces import honest

SEEDS = ("0", "1", "4711")
pytestmark = pytest.mark.slow


def told(seed: str, *arguments: str) -> str:
    """What a command prints as JSON, without the times."""
    done = subprocess.run(
        [sys.executable, "-m", "whydiff", *arguments, "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return json.dumps(without_times(json.loads(done.stdout)))  # the order of the keys counts


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items() if "seconds" not in name}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_a_comparison_of_traces(tmp_path: Path) -> None:
    """With its causes, origins and experiments; the files of a trace lie in another order the last time."""
    for reference, candidate in honest(tmp_path):
        found = {told(seed, "compare", str(reference), str(candidate)) for seed in SEEDS}
        shutil.move(candidate, tmp_path / "moved")
        candidate.mkdir()
        for file in sorted((tmp_path / "moved").iterdir(), reverse=True):
            shutil.copy(file, candidate)
        shutil.rmtree(tmp_path / "moved")
        found.add(told("2", "compare", str(reference), str(candidate)))
        assert len(found) == 1 and json.loads(found.pop())["origins"]


def test_dumps_and_logs(tmp_path: Path) -> None:
    import numpy as np

    names = [f"layer.{n}.{part}.npy" for n in range(12) for part in ("input", "output")]
    for side, order in (("a", names), ("b", names[::-1])):
        (tmp_path / side).mkdir()
        for n, name in enumerate(order):
            np.save(tmp_path / side / name, np.arange(4.0) + (side == "b") * n)
        rows = [{"id": f"r{n}", "logprobs": [-0.1 * n, -2.0 - (side == "b")], "worker": f"w{n % 3}"} for n in range(40)]
        (tmp_path / f"{side}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for command, suffix in (("dumps", ""), ("logprobs", ".jsonl")):
        sides = [str(tmp_path / f"{side}{suffix}") for side in "ab"]
        assert len({told(seed, command, *sides) for seed in SEEDS}) == 1
