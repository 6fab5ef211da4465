"""After a comparison the process is what it was, also where a side raised (law 3)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whydiff.capturing.process import as_found

PROGRAM = Path(__file__).with_name("process_state.py")
CASES = [
    ("torch", "leaking"),
    ("torch", "plain"),
    ("torch", "steps"),
    ("torch", "compiled"),
    ("jax", "leaking"),
    ("jax", "plain"),
]


@pytest.mark.slow
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "raises"])
@pytest.mark.parametrize(("framework", "program"), CASES)
def test_the_process_is_left_as_it_was(framework: str, program: str, fails: bool) -> None:
    command = [sys.executable, str(PROGRAM), framework, program, "fail" if fails else "end"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["changed"] == ""
    assert found["outcome"] == ("TargetError" if fails else "ended")


def test_the_way_back_is_taken_where_the_block_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    with pytest.raises(KeyError), as_found():
        monkeypatch.chdir(tmp_path / "below")
        raise KeyError
    assert Path.cwd() == tmp_path
