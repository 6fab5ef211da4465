"""The list of mutants fits the code: each text stands exactly once, and what it becomes is Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.mutants import Misfit, mutated  # noqa: E402
from tests.mutations import MUTANTS, TESTS, Mutant  # noqa: E402


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_fits(mutant: Mutant) -> None:
    assert mutated(mutant, ROOT) != (ROOT / "src/whydiff" / mutant.file).read_text(encoding="utf-8")


def test_every_room_has_mutants_and_tests_that_exist() -> None:
    assert len(MUTANTS) >= 25 and {mutant.room for mutant in MUTANTS} == set(TESTS)
    assert all((ROOT / path).exists() for paths in TESTS.values() for path in paths)


@pytest.mark.parametrize(
    ("old", "new"),
    [("this text is nowhere", "x"), ("import", "import x"), ('if value is None:\n        return "–"', "if value is (")],
    ids=["nowhere", "often", "no Python"],
)
def test_a_misfit_is_loud(old: str, new: str) -> None:
    with pytest.raises(Misfit):
        mutated(Mutant("report", "report/words.py", old, new), ROOT)
