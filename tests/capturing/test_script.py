"""``whydiff capture -- python script.py``, end to end, in subprocesses; or only what records, in a fork."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.forked import ran

import whydiff
from whydiff.capturing import script
from whydiff.capturing.record import MAX_BYTES
from whydiff.capturing.store import open_trace

pytest.importorskip("torch")

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 4)

    def forward(self, x):
        return self.b(self.norm(self.a(x)).relu())
"""
TRAIN = """
import argparse, os, signal, sys
import torch
from model import Net

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--end", default="")
parser.add_argument("--workers", type=int, default=0)
options = parser.parse_args()
log = open("log", "w")
log.write(options.end)


def main():
    torch.manual_seed(0)
    model, loss = Net(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    data = torch.utils.data.TensorDataset(torch.randn(16, 8), torch.randint(0, 4, (16,)))
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=options.workers)
    for step, (x, y) in enumerate(loader):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
        if step == 2 and options.end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if step == 1 and options.end == "raise":
            model(torch.ones(2, 3))
    print("argv:", sys.argv[1:], "file:", os.path.basename(__file__), "name:", __name__)
    if options.end == "text":
        sys.exit("no luck")
    if options.end.isdigit():
        sys.exit(int(options.end))


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``scripts/train.py`` and what it imports."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "scripts").mkdir()
    (folder / "scripts" / "model.py").write_text(MODEL)
    (folder / "scripts" / "train.py").write_text(TRAIN)
    return folder


def command(cwd: Path, *words: Any) -> subprocess.CompletedProcess[str]:
    source = str(Path(whydiff.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "whydiff.cli", *map(str, words)],
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def capture(project: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return command(project, "capture", "-o", name, "--", sys.executable, Path("scripts/train.py"), *options)


def recorded(cwd: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    """What ``capture`` starts."""
    return ran(script.main, [name, "op", "all", str(MAX_BYTES), *words], cwd=cwd)


@pytest.fixture(scope="module")
def runs(project: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Captures that tests share, by the name of their trace."""
    options = {"plain": (), "again": (), "other": ("--lr", "0.02", "--workers", "1"), "killed": ("--end", "kill")}
    return {name: capture(project, name, *words) for name, words in options.items()}


@pytest.mark.slow
def test_a_script_runs_as_it_would_alone(project: Path, runs: Any) -> None:
    assert runs["other"].returncode == 0, runs["other"].stderr
    assert "argv: ['--lr', '0.02', '--workers', '1'] file: train.py name: __main__" in runs["other"].stdout
    trace = open_trace(project / "other")
    assert trace.complete and {call.site.step for call in trace.calls} == {0, 1, 2, 3}
    assert {call.site.phase for call in trace.calls} == {"forward", "backward", "update"}


@pytest.mark.parametrize(("end", "status", "how"), [("3", 3, "fork"), ("text", 1, "command")])
def test_exit_statuses_go_through_and_the_trace_is_complete(project: Path, end: str, status: int, how: str) -> None:
    if how == "command":
        done = capture(project, f"end-{end}", "--end", end)
    else:
        done = recorded(project, f"end-{end}", "scripts/train.py", "--end", end)
    assert done.returncode == status
    assert ("no luck" in done.stderr) == (end == "text")
    assert (project / "log").read_text() == end
    assert open_trace(project / f"end-{end}").complete


def test_an_exception_prints_the_scripts_own_traceback(project: Path) -> None:
    done = recorded(project, "raised", "scripts/train.py", "--end", "raise")
    assert done.returncode == 1
    first = done.stderr.index("Traceback")
    assert "train.py" in done.stderr[first:].splitlines()[1] and "runpy" not in done.stderr
    assert "RuntimeError: mat1 and mat2" in done.stderr
    trace = open_trace(project / "raised")
    assert not trace.complete and "RuntimeError" in trace.note
    assert max(call.site.step for call in trace.calls if call.site.phase == "update") == 1


@pytest.mark.slow
def test_two_traces_of_scripts_are_compared(project: Path, runs: Any) -> None:
    same = command(project, "compare", "plain", "again")
    assert same.returncode == 0, same.stderr
    assert "IDENTICAL" in same.stdout
    other = command(project, "compare", "plain", "other")
    assert other.returncode == 1, other.stderr
    assert "update" in other.stdout and "IDENTICAL" not in other.stdout.splitlines()[0]


@pytest.mark.slow
def test_a_killed_script_leaves_its_complete_steps(project: Path, runs: Any) -> None:
    assert runs["killed"].returncode == 137
    trace = open_trace(project / "killed")
    assert not trace.complete and "killed" in trace.note
    assert {call.site.step for call in trace.calls} == {0, 1, 2}  # the third had come to the end of its forward pass
    assert "opened up to step 3, of which a pass had ended" in trace.note
    assert trace.environment.versions
    report = command(project, "compare", "plain", "killed")
    assert "the candidate is incomplete" in report.stdout, report.stderr


@pytest.mark.slow
def test_a_trace_in_the_way_is_a_usage_error(project: Path, runs: Any) -> None:
    done = capture(project, "plain")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_script_that_runs_another_framework_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("jax")
    (tmp_path / "train.py").write_text("import jax\nprint(jax.jit(lambda x: x * 2)(jax.numpy.ones(3)))\n")
    done = recorded(tmp_path, "t", "train.py")
    assert done.returncode == 2
    assert "framework='jax'" in done.stderr
    assert not (tmp_path / "t").exists()


def test_a_script_that_runs_no_operator_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "defines.py").write_text("import torch\ndef full(): return torch.zeros(3)\n")
    (tmp_path / "calls.py").write_text("import defines\ndefines.full()\n")
    for name, warned in (("defines", True), ("calls", False)):
        done = recorded(tmp_path, name, f"{name}.py")
        assert done.returncode == 0 and ("No operator ran" in done.stderr) is warned
