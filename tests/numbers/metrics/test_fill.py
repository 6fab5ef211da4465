"""What both sides are filled with has no weight in a distance: a mask's huge number hides nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import _fill, filled, measure_beside_fill
from whydiff.records import Payload

LOWEST = float(np.finfo(np.float32).min)


def pair(fill: float, times: int) -> tuple[np.ndarray, np.ndarray]:
    ours = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    theirs = ours * np.float32(1.01)
    for one in (ours, theirs):
        one[:times] = fill
    return ours, theirs


@pytest.mark.parametrize("fill", [-1e9, LOWEST, 1e6])
@pytest.mark.parametrize("times", [1, 2, 16])
def test_a_mask_hides_nothing(fill: float, times: int) -> None:
    ours, theirs = pair(fill, times)
    if times == 1 and abs(fill) < 1e7:
        pytest.skip("one such number may be a result")
    assert filled(ours, theirs)[:times].all() and not filled(ours, theirs)[times:].any()
    found = compare_payloads(Payload(ours, "float32"), Payload(theirs, "float32"))
    assert found.value("rel_l2") == pytest.approx(0.01, rel=1e-3)


def test_a_mask_that_is_added_is_a_fill_too() -> None:
    ours, theirs = pair(0.0, 0)
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    for one in (ours, theirs):
        one[::2] += -1e9
    assert filled(ours, theirs).tolist() == [True, False] * 16


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([6.0, 6.0, 1.0, 2.0], [6.0, 6.0, 1.0, 2.5]),  # clamped: nothing is lost beside it
        ([1e9, 1e9, 1.0, 2.0], [2e9, 2e9, 1.0, 2.5]),  # the fills differ
        ([1e9, 3e9, 1.0, 2.0], [1e9, 2e9, 1.0, 2.5]),  # two numbers
        ([1e6, 1.0, 2.0], [1e6, 1.0, 2.5]),  # once: a result
        ([1e9, 1e9], [1e9, 1e9]),
        ([np.inf, np.nan, 1.0], [np.inf, np.nan, 2.0]),
        ([0.0, 0.0], [0.0, 1.0]),
        ([], []),
    ],
)
def test_anything_else_is_none(ours: list[float], theirs: list[float]) -> None:
    one, other = np.array(ours), np.array(theirs)
    assert not filled(one, other).any()
    if one.size and np.isfinite(one).all():
        found = measure_beside_fill(Payload(one, "float64"), Payload(other, "float64"))
        assert found.sum_reference_square == float((one * one).sum())


@given(
    seed=st.integers(0, 999),
    size=st.integers(2, 60),
    fill=st.sampled_from([-1e9, LOWEST, 1e3, 5e2, 1e5, -np.inf]),
    times=st.integers(0, 60),
    dtype=st.sampled_from([np.float64, np.float32]),
)
def test_where_numbers_lie_between_nothing_is_filled(
    seed: int, size: int, fill: float, times: int, dtype: type
) -> None:
    draw = np.random.default_rng(seed)
    ours = draw.standard_normal(size).astype(dtype) * draw.choice([1, 1e-3, 1e3])
    theirs = ours * dtype(1.001)
    for one in (ours, theirs):
        one[:times] = fill
    if _fill._between(Payload(ours, np.dtype(dtype).name)):
        assert not filled(ours, theirs).any()


def test_a_mask_s_number_is_not_between_and_a_plain_tensor_s_are() -> None:
    for times, found in ((0, True), (16, False)):
        assert _fill._between(Payload(pair(-1e9, times)[0], "float32")) is found
