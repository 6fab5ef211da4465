"""A file of weights where a trace is expected: refused, and never executed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.errors import WhydiffError


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def hostile(folder: Path) -> tuple[Path, Path]:
    mark = folder / "it-ran"
    torch.save({"weight": torch.ones(2), "evil": Bomb(mark)}, folder / "model.pt")
    return folder / "model.pt", mark


def test_the_bomb_works(tmp_path: Path) -> None:
    path, mark = hostile(tmp_path)
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_a_pt_file_where_a_trace_is_expected(tmp_path: Path) -> None:
    path, mark = hostile(tmp_path)
    with pytest.raises(WhydiffError) as caught:
        whydiff.compare(str(path), str(path))
    assert "trace" in str(caught.value) and str(path) in str(caught.value)
    assert not mark.exists()


def test_a_pt_file_on_the_command_line(tmp_path: Path) -> None:
    path, mark = hostile(tmp_path)
    source = str(Path(whydiff.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "whydiff.cli", "compare", str(path), str(path)],
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": source},
        check=False,
        timeout=120,
    )
    assert (
        done.returncode == 2
        and "holds numbers, not a program or a trace" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert not mark.exists()
