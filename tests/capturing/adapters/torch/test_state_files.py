"""Files of weights: read as data, never executed."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whydiff
from whydiff.capturing.adapters.torch.state_files import read_state_dict
from whydiff.errors import TraceFormatError, WhydiffError


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


def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, mark = hostile(tmp_path)
    with pytest.raises(TraceFormatError, match="never executed"):
        read_state_dict(path)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(TraceFormatError):
        read_state_dict(tmp_path / "plain.pkl")
    assert not mark.exists()


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
    assert done.returncode == 2 and "a trace is a folder" in done.stderr and "Traceback" not in done.stderr
    assert not mark.exists()


def test_state_dicts_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).to(torch.bfloat16)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "b.pt")
    save_file(model.state_dict(), tmp_path / "c.safetensors")
    plain = read_state_dict(tmp_path / "a.pt")
    assert plain.keys() == model.state_dict().keys() == read_state_dict(tmp_path / "c.safetensors").keys()
    assert all(torch.equal(plain[name], tensor) for name, tensor in model.state_dict().items())
    assert "model.0.weight" in read_state_dict(tmp_path / "b.pt")


@pytest.mark.parametrize("data", [b"", b"no pickle at all", b"\x80\x04K\x01.", b"PK\x03\x04 cut off"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files(data: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data)
    with pytest.raises(TraceFormatError):
        read_state_dict(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(TraceFormatError, match="no such file"):
        read_state_dict(tmp_path / "x.pt")
