"""Stored numbers held against computed ones: one row decides where it can, and only there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from whydiff.explain.implied import as_rows, implied, one_row

Array = np.ndarray[Any, Any]
MADE = np.random.default_rng(3)
DOWN, UP = (MADE.standard_normal(shape).astype(np.float32).astype(np.float64) for shape in ((8, 3), (3, 6)))


def product(reads: Sequence[Array]) -> Array:
    return np.asarray(reads[0] @ reads[1])


@pytest.fixture
def whole() -> Callable[[Sequence[Array]], Array]:
    """The function as a whole, which counts how often it is asked."""

    def function(reads: Sequence[Array]) -> Array:
        function.asked += 1  # type: ignore[attr-defined]
        return product(reads)

    function.asked = 0  # type: ignore[attr-defined]
    return function


def held(stored: Array, whole: Any, by_row: bool) -> Any:
    row = (lambda reads, at: product(reads)[at]) if by_row else None
    return implied(stored, "float32", whole, [DOWN, UP], ["float32", "float32"], row)


def merged(error: float = 0.0) -> Array:
    stored = product([DOWN, UP]).astype(np.float32).astype(np.float64)
    stored[5, 2] += error
    return stored


def test_a_row_that_is_too_far_away_decides_alone(whole: Any) -> None:
    found = held(merged(1e-4), whole, by_row=True)
    assert found.differs and found.moves and found.worst > 1 and not found.is_rounding
    assert whole.asked == 1, "no other row was asked how far it moves"
    assert held(merged(1e-4), whole, by_row=False).worst == pytest.approx(found.worst)


def test_rounding_is_told_of_all_rows(whole: Any) -> None:
    found = held(merged(), whole, by_row=True)
    assert found.is_rounding
    assert whole.asked > 10
    assert found == held(merged(), whole, by_row=False)


def test_what_does_not_differ_is_not_moved_whole(whole: Any) -> None:
    found = held(product([DOWN, UP]), whole, by_row=True)
    assert (found.differs, found.moves, found.is_rounding) == (False, True, False)
    assert whole.asked == 1


def test_a_row_that_nothing_moves_says_nothing_of_the_others(whole: Any) -> None:
    fixed = product([DOWN, UP])
    still = implied(merged(1e-4), "float32", whole, [DOWN, UP], ["float32", "float32"], lambda reads, at: fixed[at])
    assert still is not None and whole.asked > 10
    moved = held(merged(1e-4), whole, by_row=False)
    assert still == moved


@pytest.mark.parametrize("shape", [(3, 4), (2, 2, 4), (4,)])
def test_one_row_is_that_of_the_matrix(shape: tuple[int, ...]) -> None:
    weights, bias = MADE.standard_normal((4, 5)), MADE.standard_normal(5)

    def function(x: Array) -> Array:
        return np.asarray(x @ weights + bias)

    x = MADE.standard_normal(shape)
    found = as_rows(function, x, 1e-9)
    assert found is not None
    np.testing.assert_allclose(found.matrix, weights, atol=1e-12)
    for at in range(4):
        np.testing.assert_array_equal(one_row(function, x, at), found.matrix[at])
    np.testing.assert_array_equal(one_row(function, x, 4), found.shift)
