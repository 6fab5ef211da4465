"""What the documentation shows is run: the README's files and commands as they stand, other commands as far as they parse."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from whydiff.cli import app

ROOT = Path(__file__).parents[2]
GENERATED = (
    ROOT / "docs/causes",
    ROOT / "docs/_build",
    ROOT / "docs/reference/help.md",
    ROOT / "docs/reference/api.md",
)
PAGES = [p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")) if not any(p.is_relative_to(g) for g in GENERATED)]
FENCE = re.compile(r"^[ ]*```(\w*)\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
GROUP: Any = typer.main.get_command(app)
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXPECTED = {
    "whydiff compare buffers.py:built buffers.py:loaded": (1, "memory that nobody wrote"),
    "whydiff sweep batch.py:model --batch 1,8": (None, "output"),  # which kernels depend on the batch is the machine's
    "whydiff compare old.trace new.trace": (0, "IDENTICAL"),
    "whydiff port reference.py:model port.py:model": (1, "the candidate's epsilon is 0.001, the reference's 1e-05"),
    "whydiff compare generate.py:before generate.py:after": (1, "the tokens part at position"),
    "whydiff compare dtypes.py:full dtypes.py:half --save report.html": (1, "PRECISION, proven"),
    "whydiff compare dtypes.py:full dtypes.py:cast": (
        1,
        "PRECISION, proven: the candidate's state and arithmetic are bfloat16",
    ),
}
"""The README's commands → exit status and what they say."""
SLOW = ("sweep", "generate")
"""Commands with one of these words run with ``make product`` only: ten seconds each."""


def commands(page: Path) -> list[str]:
    """Lines of blocks, and of code in text, that begin with ``whydiff`` and a command; not lines that show the syntax."""
    text = page.read_text(encoding="utf-8")
    lines = [
        line.strip() for language, block in FENCE.findall(text) if language != "python" for line in block.splitlines()
    ]
    lines += re.findall(r"`(whydiff [^`\n]+)`", FENCE.sub("", text))
    shown = [line.split("  #")[0].strip() for line in lines if line.split(" ")[0] == "whydiff"]
    return [line for line in shown if len(line.split()) > 1 and not re.search(r"[\[…]|\bCOMMAND\b", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for line in commands(page):
        _, name, *words = shlex.split(line)
        if name.startswith("-"):
            assert name in {o for p in GROUP.params for o in p.opts} | {"--help"}, line
            continue
        assert name in GROUP.commands, line
        wanted = [p for p in GROUP.commands[name].params if isinstance(p, typer.core.TyperArgument) and p.required]
        if words or not wanted:  # a command may be named without its arguments
            GROUP.commands[name].make_context(name, words)


def test_the_test_above_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "```\nwhydiff compare a b --nonsense\n```\nand `whydiff compair a b`, `whydiff compare REF [ARGS]`\n"
    )
    assert commands(page) == ["whydiff compare a b --nonsense", "whydiff compair a b"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_is_python(page: Path) -> None:
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            compile(textwrap.dedent(block), str(page), "exec")


def test_every_target_of_make_exists() -> None:
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [
        name
        for page in PAGES
        for name in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", page.read_text("utf-8"), re.M)
    ]
    assert named and {one or other for one, other in named} <= set(made)


# ------------------------------------------------------------------------------------------- the README is run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The README's files, each under the name in its first line."""
    there = tmp_path_factory.mktemp("readme")
    for language, block in FENCE.findall(README):
        name = block.partition("\n")[0].removeprefix("# ")
        if language == "python":
            (there / name).write_text(block, encoding="utf-8")
    return there


def test_every_block_of_the_readme_names_its_file(folder: Path) -> None:
    names = {
        "buffers.py",
        "dtypes.py",
        "batch.py",
        "reference.py",
        "port.py",
        "generate.py",
        "test_refactor.py",
        "in_python.py",
    }
    assert {file.name for file in folder.iterdir()} >= names
    assert {line for line in commands(ROOT / "README.md") if "--save" in line or " compare" in line} <= {
        *EXPECTED,
        "whydiff compare dtypes.py:full dtypes.py:half",  # with --save it is run
    }


def test_the_readme_is_true(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    monkeypatch.chdir(folder)
    for name in ("old", "new"):  # what `whydiff capture` does, without a new process
        import whydiff

        with whydiff.capture(f"{name}.trace"):
            torch.linspace(0, 1, 8).sin()
    for line, (status, said) in EXPECTED.items():
        if any(word in line for word in SLOW) and not os.environ.get("WHYDIFF_SLOW"):
            continue
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert status is None or result.exit_code == status, (line, result.output)
        assert said in result.stdout, (line, result.output)
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!")


def test_the_readme_in_python_is_true(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    text = (folder / "in_python.py").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(compile(text, "in_python.py", "exec"), found)
    assert "SEMANTIC" in capsys.readouterr().out and found["diagnosis"].causes
    exec(compile((folder / "test_refactor.py").read_text(encoding="utf-8"), "test_refactor.py", "exec"), found)
    found["test_refactor"]()


# ------------------------------------------------------------------------------------------- the site


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    words = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dummy", "-d", str(tmp_path / "trees")]
    done = subprocess.run(
        [sys.executable, *words, str(ROOT / "docs"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
