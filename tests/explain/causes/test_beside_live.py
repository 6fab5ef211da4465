"""Rows of which Python decides by the whole batch: a record of one batch does not tell, another run does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

_seeded = torch.Generator().manual_seed(2)
X, GATE, UP = (torch.randn(*shape, generator=_seeded) for shape in ((8, 12), (12, 3), (3, 12, 12)))
SQUARE = torch.randn(8, 8, generator=_seeded)
CHOSEN = (X @ GATE).argmax(-1).tolist()
LATE = next(row for row in range(7, 0, -1) if CHOSEN[:row].count(CHOSEN[row]) >= 2)
"""A row that finds its expert's two places taken."""


def experts(x: Any, places: int, factor: float = 1.0) -> Any:
    """Every row by its expert, which has so many places."""
    found, taken = x.clone(), [0, 0, 0]
    for row, expert in enumerate((x @ GATE).argmax(-1).tolist()):
        if taken[expert] < places:
            found[row] += torch.tanh(x[row] @ UP[expert]) * factor
            taken[expert] += 1
    return found


def halved(x: Any) -> Any:
    """Twice as small if a number of the batch is large, as Python sees it."""
    return torch.tanh(x * (0.5 if max(map(max, x.abs().tolist())) > 2 else 1.0)) @ UP[0]


QUIET = int(X.abs().amax(1).argmin())


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("run", "row"), [(lambda x: experts(x, 2), LATE), (halved, QUIET)], ids=["places", "a branch by a maximum"]
)
def test_rows_beside_which_python_decides_otherwise_are_named(run: Any, row: int, turned: bool) -> None:
    pair = (lambda: run(X[row : row + 1])), (lambda: run(X)[row : row + 1])
    kept = X.clone()
    found = compare(*(pair[::-1] if turned else pair))
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("FO009", "located")
    assert torch.equal(X, kept)


def test_enough_places_are_no_cause() -> None:
    found = compare(lambda: experts(X[LATE : LATE + 1], 8), lambda: experts(X, 8)[LATE : LATE + 1])
    assert found.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING)
    assert "FO009" not in {cause.code for cause in found.causes}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "pair",
    [
        (lambda: experts(X[1:2], 8), lambda: experts(X, 8, 1.5)[1:2]),
        (lambda: torch.tanh(X[1:2, :8] @ SQUARE), lambda: torch.tanh(X[:, :8] @ SQUARE * 1.5)[1:2]),
        (lambda: torch.tanh(X[1:2] @ UP[0]), lambda: torch.tanh(X @ UP[0] * 1.5)),
    ],
    ids=["another factor", "a matrix with as many rows as the batch", "the whole batch is returned"],
)
def test_another_function_of_rows_that_do_not_meet_is_none(pair: tuple[Any, Any], turned: bool) -> None:
    found = compare(*(pair[::-1] if turned else pair))
    assert found.verdict is Verdict.SEMANTIC
    assert "FO009" not in {cause.code for cause in found.causes if cause.status != "refuted"}
