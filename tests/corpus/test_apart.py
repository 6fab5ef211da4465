"""Cases apart: what a process that ends early planned is no good check, and the sums count it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.corpus import apart
from tests.corpus.apart import Check

SCORE = """
import os, sys
from tests.corpus import apart
from tests.corpus.apart import Check

def case(name):
    yield [(name, "right"), (name + " one", "planted"), (name + " two", "planted")]
    yield Check(name=name, kind="right", placed=True, named=True)
    yield Check(name=name + " one", kind="planted", placed=True, named=name != "unnamed", told="seen")
    if name == "dies":
        os._exit(3)
    yield Check(name=name + " two", kind="planted", placed=True, named=True, wrong=("X: y",) if name == "wrong" else ())

if __name__ == "__main__":
    sys.exit(apart.main("a_score", ["good", "dies", "unnamed", "wrong"], case))
"""


def score(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "a_score.py").write_text(SCORE)
    path = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
    command = [sys.executable, "-m", "a_score", *words]
    return subprocess.run(command, env=path, capture_output=True, text=True, timeout=300)


def test_good_cases_end_well(tmp_path: Path) -> None:
    done = score(tmp_path, "good")
    assert done.returncode == 0, done.stderr
    said = "right 1 of 1 (100.0%), placed 2 of 2 (100.0%), named 2 of 2 (100.0%); confirmed wrongly 0; not run to the end 0"
    assert f"in all: {said}" in done.stdout
    assert f"[1 of 1 cases] {said}" in done.stdout


def test_what_did_not_come_is_counted_and_named(tmp_path: Path) -> None:
    done = score(tmp_path, "--jobs", "4")
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith(
        "in all: right 4 of 4 (100.0%), placed 7 of 8 (87.5%), named 6 of 8 (75.0%); "
        "confirmed wrongly 1; not run to the end 1; "
    )
    assert "dies two: NOT RUN NOT PLACED NOT NAMED – status 3" in done.stdout
    assert "unnamed one: NOT NAMED – seen" in done.stdout
    assert "wrong two: WRONG X: y" in done.stdout


def test_a_case_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **how: Any) -> None:
        Path(command[-1]).write_text('[["a", "right"], ["b", "planted"]]\n{"name": "a", "ki')
        raise subprocess.TimeoutExpired(command, how["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    assert apart.apart("a_score", "a", 7) == [
        Check(name="a", kind="right", told="ended after 7 s", ran=False),
        Check(name="b", kind="planted", told="ended after 7 s", ran=False),
    ]
