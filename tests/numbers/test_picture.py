from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.numbers import picture as module
from whydiff.numbers.picture import CELLS, picture
from whydiff.records import Payload


def payload(values: object, dtype: str = "float32") -> Payload:
    return Payload(bits=np.asarray(values, dtype), dtype=dtype)


def test_a_small_matrix_is_its_own_grid() -> None:
    ours, theirs = payload([[1, 2, 4], [8, 16, 32]]), payload([[1, 2.5, 4], [8, 16, 33]])
    found = picture("x", ours, theirs)
    assert found is not None
    assert found.grid == ((0.0, 0.5, 0.0), (0.0, 0.0, 1.0)) and (found.rows, found.columns) == (1, 1)
    assert found.first == (0, 1) and found.values == ("2", "2.5") and found.spec == "float32[2,3]"
    assert found.seen == (6, 6)


def test_units_in_the_last_place_are_counted_by_powers_of_two() -> None:
    ours = np.float32([1, 1, 1, 2])
    theirs = ours + np.float32([2**-23, 2**-22, 3 * 2**-23, 2 * 2**-22])
    found = picture("x", payload(ours), payload(theirs))
    assert found is not None and found.ulps == ((1, 1), (2, 3))


def test_what_has_no_picture() -> None:
    one = payload([1.0, 2.0])
    assert picture("equal", one, one) is None
    assert picture("shapes", one, payload([1.0])) is None
    assert picture("integers", payload([1], "int32"), payload([2], "int32")) is None
    assert picture("nan", payload([np.nan]), payload([np.nan])) is None
    assert picture("empty", payload([]), payload([])) is None


def test_nan_on_one_side_is_infinitely_far() -> None:
    found = picture("x", payload([1.0, 1.0]), payload([1.0, np.nan]))
    assert found is not None and found.grid == ((0.0, float("inf")),) and found.first == (1,)


def test_of_a_large_tensor_its_first_rows_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 8)
    ours = np.zeros((100, 4), np.float32)
    found = picture("x", payload(ours), payload(ours + 1))
    assert found is not None and found.seen == (8, 400)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.lists(st.integers(1, 130), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_the_grid_holds_every_difference_and_stays_small(shape: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    ours = random.standard_normal(shape).astype(np.float32)
    theirs = ours.copy()
    at = tuple(random.integers(0, size) for size in shape)
    theirs[at] += 3
    found = picture("x", payload(ours), payload(theirs))
    assert found is not None and found.first == at
    assert len(found.grid) <= CELLS and all(len(row) <= CELLS for row in found.grid)
    cells = [value for row in found.grid for value in row if value]
    assert cells == [float(theirs[at].astype(np.float64) - ours[at].astype(np.float64))]


def test_infinities_on_both_sides_warn_of_nothing() -> None:
    ours, theirs = (Payload(np.array([[1.0, -np.inf, last]], np.float32), "float32") for last in (np.inf, -np.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = picture("output", ours, theirs)
    assert found is not None and found.first == (0, 2)
