"""What ``--help`` shows: 80 columns, nothing lost, and command lines that can be copied."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from whydiff.cli import app, demos
from whydiff.cli._help import HELP
from whydiff.cli.demo import Name
from whydiff.errors import UsageError
from whydiff.report.base import check_file

GROUP: Any = typer.main.get_command(app)
EXAMPLES = [line for one in HELP.values() for line in one.examples]


def shown(*words: str) -> str:
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).stdout


def saved(line: str) -> list[str]:
    words = shlex.split(line)
    return [after for word, after in itertools.pairwise(words) if word in ("-s", "--save")]


@pytest.mark.parametrize("name", GROUP.commands)
def test_help_is_whole_and_has_examples(name: str) -> None:
    text = shown(name)
    assert "{" not in text and "}" not in text
    usage = text.partition("\n\n")[0]
    for argument in (p for p in GROUP.commands[name].params if isinstance(p, typer.core.TyperArgument)):
        assert argument.metavar in usage
    assert all(f"\n    {line}\n" in text for line in HELP[name].examples) and HELP[name].examples
    # an option whose choices are long stands alone on a line
    assert [line for line in text.splitlines() if len(line) > 80 and not re.match(r" +--\w+ <\S+>$", line)] == []


def test_the_list_of_commands_asks_whole_questions() -> None:
    text = shown()
    assert all(f"{name:9}  {one.question}\n" in text for name, one in HELP.items())


def test_training_says_what_makes_a_log() -> None:
    text = " ".join(shown("training").split())
    assert text.count("a folder made by --log or by whydiff capture --level step.") == 2


def test_square_brackets_of_a_help_text_stay() -> None:
    assert "token ids [batch," in shown("decoding")


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_a_command_line(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "whydiff"
    context = GROUP.commands[name].make_context(name, words)
    assert not context.args
    for path in saved(line):
        check_file(path)


def test_the_test_above_can_fail() -> None:
    with pytest.raises(Exception, match="No such option"):
        GROUP.commands["compare"].make_context("compare", ["a", "b", "--nonsense"])
    with pytest.raises(UsageError):
        check_file("/nowhere/a.md")


def test_the_demos_are_named() -> None:
    assert tuple(one.value for one in Name) == demos.NAMES
    assert all(name in shown("demo") for name in demos.NAMES)


@pytest.mark.parametrize(
    ("line", "expected"),
    [("whydiff dem", "demo"), ("whydiff demo g", "gemma"), ("whydiff compare a b --allow ro", "rounding")],
)
def test_the_shell_completes(line: str, expected: str, tmp_path: Path) -> None:
    script = tmp_path / "whydiff"
    script.write_text(f"#!{sys.executable}\nfrom whydiff.cli import main\nmain()\n")
    script.chmod(0o755)
    asked = {"_WHYDIFF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run([str(script)], env={**os.environ, **asked}, capture_output=True, text=True, check=True)
    assert expected in done.stdout.split()
