"""Ctrl-C at any moment: the process is as it was, and what was found until then is shown."""

from __future__ import annotations

import bz2
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.forked import executed, ran
from typer.testing import CliRunner

import whydiff
from whydiff.cli import app
from whydiff.errors import Interrupted
from whydiff.pipeline import Options, compare

torch.manual_seed(0)
MODEL = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 4)).eval()
X = torch.randn(3, 16)


def narrow() -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return MODEL(X)


class Stop:
    """A progress that presses Ctrl-C when a stage begins (for the n-th time)."""

    def __init__(self, stage: str) -> None:
        self.stage, self.stages = stage, []

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        self.stages.append(stage)
        if stage == self.stage:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stages() -> list[str]:
    listener = Stop("")
    compare(lambda: MODEL(X), narrow, options=Options(progress=listener))
    return list(dict.fromkeys(listener.stages))


def test_what_was_found_until_then_is_a_diagnosis(stages: list[str]) -> None:
    assert {"capture the reference", "verify causes"} <= set(stages)
    before = torch.is_autocast_enabled("cpu"), torch.get_rng_state().sum()
    for stage in stages:
        with pytest.raises(KeyboardInterrupt) as caught:
            compare(lambda: MODEL(X), narrow, options=Options(progress=Stop(stage)))
        assert (torch.is_autocast_enabled("cpu"), torch.get_rng_state().sum()) == before
        if stage.startswith("capture the"):
            assert not isinstance(caught.value, Interrupted), "nothing was found yet"
            continue
        found = caught.value.found
        assert found.verdict == "inconclusive" and "interrupted" in found.reason and found.outputs
        assert any("interrupted" in count.reason for count in found.not_compared)
        located = stages.index(stage) > stages.index("resynchronise")
        assert bool(found.origins) == located, "the outputs of other dtypes do not tell origins before the replays"
        found.to_dict()
        if stage == "verify causes":
            assert found.causes


def test_what_is_told_after_it_loads_no_kernel_and_the_command_ends_at_once(tmp_path: Path) -> None:
    code = """
import sys, torch, whydiff.cli, whydiff.locate.localize
from whydiff.__main__ import main
from whydiff.errors import Interrupted
def press(*args): raise KeyboardInterrupt
whydiff.locate.localize.axes_of = press  # before anything was measured
x = torch.linspace(-1, 1, 4096)
try: whydiff.compare(lambda: x.sin(), lambda: x.sin() * 1.01)
except Interrupted as stop: print(stop.found.outputs[0][1].status, "numba" in sys.modules)
whydiff.cli.main = press
main()
"""
    done = ran(executed, code, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "differs False\n", "interrupted\n")


@pytest.mark.parametrize("waiting", [False, True])
def test_what_the_program_has_written_reaches_its_files(tmp_path: Path, waiting: bool) -> None:
    code = f"""
import atexit, bz2, sys, threading, whydiff.cli
from whydiff.__main__ import main
log, packed, late = open("log", "w"), bz2.open("packed", "wt"), open("late", "w")
log.write("so far"), packed.write("so far")
ended = threading.Event()
atexit.register(late.write, "so far")
def work(): ended.wait(0.2), log.write("; done")
if {waiting}: threading.Thread(target=work).start()
def press(*args): raise KeyboardInterrupt
whydiff.cli.main = press
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert (tmp_path / "log").read_text() == "so far" + "; done" * waiting
    assert bz2.decompress((tmp_path / "packed").read_bytes()).decode() == (tmp_path / "late").read_text() == "so far"


def test_the_command_line_shows_it_and_exits_with_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(
        "import torch\nx = torch.ones(4)\ndef a(): return x.sin()\ndef b(): return x.cos()\n"
    )
    import whydiff.cli._report as module

    @contextlib.contextmanager
    def pressed(quiet: bool) -> Any:
        yield Stop("verify causes")

    monkeypatch.setattr(module, "progress", pressed)
    result = CliRunner().invoke(app, ["compare", "m.py:a", "m.py:b", "--save", "r.json"])
    assert result.exit_code == 130 and "interrupted" in result.stderr
    assert "interrupted" in result.stdout and Path("r.json").exists()


def test_a_sweep_keeps_the_sizes_that_were_run() -> None:
    class Third(Stop):
        def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
            if done == 2:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        whydiff.sweep(lambda x: x @ x.T, lambda batch: (torch.ones(batch, 4),), batch="1..5", progress=Third(""))
    assert len(caught.value.found.cells) == 2 and "after 2 of 4 cells" in caught.value.found.reason


def test_a_comparison_of_files_keeps_what_was_read(tmp_path: Path) -> None:
    for side in ("a", "b"):
        (tmp_path / side).mkdir()
        for number in range(3):
            np.save(tmp_path / side / f"{number}.npy", np.arange(4))

    class Second(Stop):
        def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
            if done:
                raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        whydiff.compare_artifacts(tmp_path / "a", tmp_path / "b", progress=Second(""))
    found = caught.value.found
    assert found.status != "identical" and "after 1 of 3 files" in found.reason
    assert [count.count for count in found.not_compared] == [2]
