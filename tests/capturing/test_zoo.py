"""A sample of the kinds of program that `python -m tests.scores.zoo` captures, and of captures that are ended."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.scores import killed
from tests.scores.zoo import run
from tests.scores.zoo.kind import TABLE

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

pytestmark = pytest.mark.fresh


@pytest.mark.parametrize("name", SAMPLE)
def test_a_kind_of_program_under_captures(name: str) -> None:
    assert run.apart(TABLE[name], run.QUICK) == []


def test_the_table_has_sixty_kinds_and_more() -> None:
    assert len(TABLE) >= 60
    assert {kind.name for kind in TABLE.values() if kind.op} and {kind.name for kind in TABLE.values() if not kind.op}


@pytest.mark.parametrize("number", [0, 9, 11, 13, 17, 19, 20])
def test_a_capture_that_is_ended(number: int, tmp_path: Path) -> None:
    assert killed.ended(number, tmp_path) == ""
