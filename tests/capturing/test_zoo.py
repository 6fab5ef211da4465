"""A sample of the kinds of program that `python -m tests.scores.zoo` captures, and of captures that are ended."""

from __future__ import annotations

import pytest
from tests.scores.commands import done
from tests.scores.zoo.run import TABLE

SAMPLE = (
    "training",
    "ensemble",
    "function_mode",
    "storage_that_is_resized",
    "nested_and_strided",
    "model_in_a_thread",
    "forked",
    "interrupt_that_is_caught",
    "lazy",
    "config_that_raises",
    "child_that_holds_its_parent",
    "traced_by_jit",
    "compiled_as_one_graph",
)


@pytest.mark.slow
def test_kinds_of_program_under_captures() -> None:
    zoo = done("tests.scores.zoo", "--quick", *SAMPLE)
    assert zoo.returncode == 0, zoo.stdout + zoo.stderr


def test_the_table_has_sixty_kinds_and_more() -> None:
    assert len(TABLE) >= 60
    assert {kind.name for kind in TABLE.values() if kind.op} and {kind.name for kind in TABLE.values() if not kind.op}


@pytest.mark.slow
def test_captures_that_are_ended() -> None:
    killed = done("tests.scores.killed", "14")
    assert killed.returncode == 0, killed.stdout + killed.stderr
