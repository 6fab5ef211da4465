"""Real processes: one interpreter, another instruction set, another number of threads, one that fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from whydiff.cli import app
from whydiff.studies.matrix import Matrix, MatrixOptions, Pairing, run_matrix, settings
from whydiff.studies.matrix.records import Setting
from whydiff.studies.matrix.worker import Worker

TARGET = f"{Path(__file__).with_name('program.py')}:run"
ONE = "ATEN_CPU_CAPABILITY=default"
THREE = f"{ONE} WHYDIFF_A=1 WHYDIFF_B=2"

pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this machine has one instruction set only"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def matrix(folder: Path) -> Matrix:
    """One variable each: what is said of several is tested by `test_bisect` without processes."""
    chosen = settings([sys.executable], [ONE, "OMP_NUM_THREADS=2", "WHYDIFF_TEST_FAIL=1"])
    return run_matrix(TARGET, chosen, MatrixOptions(folder))


def pair(matrix: Matrix, candidate: int) -> Pairing:
    (found,) = (p for p in matrix.pairings if (p.reference, p.candidate) == (0, candidate))
    return found


def test_another_instruction_set_is_rounding_of_the_norm(matrix: Matrix) -> None:
    _is_rounding_of_the_norm(pair(matrix, 1))


def test_the_answer_has_the_five_lines_of_every_comparison(matrix: Matrix) -> None:
    said = dict(matrix.answer())
    assert list(said) == ["", "where", "effect", "proof", "fix", "also"]
    assert said["fix"] == "run the target alone in the environment that failed (-v shows how)", "not compared is graver"
    rounded = replace(matrix, pairings=matrix.pairings[:1], cells=matrix.cells[:2])
    said = dict(rounded.answer())
    assert said[""] == "ROUNDING, proven: ATEN_CPU_CAPABILITY as it is → default changes the numbers (EN004)"
    assert said["where"].startswith("native_layer_norm") and "at most by" in said["effect"]
    assert said["proof"] == "alone it gives the candidate's bits; without it the bits are the reference's"
    assert (
        said["fix"]
        == "give ATEN_CPU_CAPABILITY one value in both environments (tried: the bits are then the reference's)"
    )
    alike = replace(rounded, pairings=(Pairing(0, 1, "identical", "", ()),))
    assert dict(alike.answer())["effect"] == "none: the outputs are bit-equal"


@pytest.mark.slow
def test_one_of_three_variables_is_responsible(folder: Path) -> None:
    found = pair(run_matrix(TARGET, settings([sys.executable], [THREE]), MatrixOptions(folder)), 1)
    assert found.tried[0] == 3
    _is_rounding_of_the_norm(found)


def _is_rounding_of_the_norm(found: Pairing) -> None:
    assert found.verdict == "rounding", found.reason
    (responsible,) = found.responsible
    assert responsible.difference == "ATEN_CPU_CAPABILITY as it is → default"
    assert (responsible.alone, responsible.without) == ("reproduces", "agrees")
    assert [(c.code, c.status) for c in found.causes] == [("EN004", "confirmed")]
    assert "native_layer_norm" in {o["site"]["op"] for o in found.diagnosis["origins"]}
    assert found.diagnosis["accounted"] is True
    confirmed = [c for c in found.diagnosis["causes"] if c["code"] == "EN004"]
    assert [c["status"] for c in confirmed] == ["confirmed"]


def test_another_number_of_threads_is_rounding_of_the_sum(matrix: Matrix) -> None:
    found = pair(matrix, 2)
    assert found.verdict == "rounding", found.reason
    assert [(c.code, c.status) for c in found.causes] == [("OR002", "confirmed")]
    assert {o["site"]["op"] for o in found.diagnosis["origins"]} == {"sum"}
    assert ("flags.threads", "1", "2") in found.changes


def test_a_cell_that_fails_does_not_lose_the_others(matrix: Matrix) -> None:
    assert [cell.status for cell in matrix.cells] == ["done", "done", "done", "failed"]
    assert "asked to fail" in matrix.cells[3].note
    assert pair(matrix, 3).verdict == "not compared"


def test_a_second_run_resumes_and_the_command_says_the_same(matrix: Matrix, folder: Path) -> None:
    words = ["matrix", TARGET, "--env", ONE, "--env", "OMP_NUM_THREADS=2", "-o", str(folder), "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1, result.output
    data = json.loads(result.stdout)
    assert next(iter(data)) == "schema_version"
    assert [cell["resumed"] for cell in data["cells"]] == [True, True, True]
    assert [p["verdict"] for p in data["pairings"]] == ["rounding", "rounding"]
    allowed = CliRunner().invoke(app, [*words[:-1], "--allow", "rounding", "-v"])
    assert allowed.exit_code == 0, allowed.output
    assert "EN004" in allowed.stdout and "ATEN_CPU_CAPABILITY as it is → default" in allowed.stdout
    assert allowed.stdout.index("What differs between the environments") < allowed.stdout.index("Pairs")


def test_beyond_the_limit_pairs_are_compared_by_fingerprints_and_it_says_so(matrix: Matrix, folder: Path) -> None:
    chosen = settings([sys.executable], [ONE])
    found = run_matrix(TARGET, chosen, MatrixOptions(folder, max_bytes=1000, bisect=False))
    (note, _) = found.notes
    assert "more than --max-bytes 1000" in note
    assert str(matrix.cells[0].payload_bytes) in note
    assert found.pairings[0].diagnosis["origins"][0]["site"]["op"] == "native_layer_norm"
    assert found.pairings[0].verdict == "inconclusive"


def test_a_process_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (setting, _) = settings([sys.executable], ["WHYDIFF_A=1"])
    answer = Worker(tmp_path, 0.2).ask(setting, {"do": "capture", "target": TARGET, "payloads": "none"}, "")
    assert answer.status == "timeout"
    assert "0.2 s" in answer.note


@pytest.mark.parametrize("damage", [b"", b'{"ok": true', b"[]", b"\xff"])
def test_an_answer_that_cannot_be_read_is_asked_for_again(
    tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cell(worker: Worker, setting: Setting, place: Path) -> tuple[str, str]:
        (place / "answer.json").write_text('{"ok": true}')
        return "done", ""

    monkeypatch.setattr(Worker, "_run", cell)
    setting, worker, request = settings([sys.executable], [THREE])[0], Worker(tmp_path, 300), {"do": "capture"}
    assert not worker.ask(setting, request, "").resumed
    assert worker.ask(setting, request, "").resumed
    (answer,) = tmp_path.rglob("answer.json")
    answer.write_bytes(damage)
    again = worker.ask(setting, request, "")
    assert (again.status, again.resumed) == ("done", False)


@pytest.mark.slow
def test_a_matrix_that_is_asked_to_end_ends_its_cells(tmp_path: Path) -> None:
    program, started = tmp_path / "slow.py", tmp_path / "started"
    program.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "def run():\n"
        f"    Path({str(started)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(120)\n"
    )
    command = [sys.executable, "-m", "whydiff", "matrix", f"{program}:run", "--env", THREE, "-o", str(tmp_path / "m")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as matrix:
        _wait_for(started.exists)
        matrix.send_signal(signal.SIGTERM)
        said, _ = matrix.communicate(timeout=60)
    assert matrix.returncode == 130, said
    cell = Path("/proc") / started.read_text()
    _wait_for(lambda: not cell.exists())


def _wait_for(fact: Callable[[], bool]) -> None:
    """Until it is so, and no longer than a minute."""
    end = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.05)
