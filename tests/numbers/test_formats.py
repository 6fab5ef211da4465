"""Formats against another implementation of them: numpy's and ml_dtypes'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.numbers.formats import FORMATS, MINIFLOATS, minifloat_table, round_to

ml_dtypes = pytest.importorskip("ml_dtypes")

STORED = [name for name in FORMATS if name != "tf32"]
HARD = [0.0, -0.0, np.inf, -np.inf, np.nan, 2.0**-1074, 1e300, -1e300, 2.0**-9, 448.0, 464.0, 465.0, 65519.0, 65520.0]


def own(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, None) or name)


@pytest.mark.parametrize("name", STORED)
def test_limits(name: str) -> None:
    kind, info = FORMATS[name], ml_dtypes.finfo(own(name))
    assert kind.largest == float(info.max)
    if name != "float8_e8m0fnu":
        found = kind.precision, kind.smallest_normal, kind.smallest
        assert found == (info.nmant + 1, float(info.smallest_normal), float(info.smallest_subnormal))


@pytest.mark.parametrize("name", MINIFLOATS)
def test_every_code_of_an_8_bit_float(name: str) -> None:
    expected = np.arange(256, dtype=np.uint8).view(own(name)).astype(np.float32)
    found = minifloat_table(name)
    np.testing.assert_array_equal(found, expected)
    assert np.array_equal(np.signbit(found)[found == 0], np.signbit(expected)[expected == 0])


@pytest.mark.parametrize("name", [n for n in STORED if n != "float8_e8m0fnu"])
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
@settings(max_examples=40)
def test_rounding_to_nearest(name: str, numbers: list[float]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.array([*numbers, *np.float32(HARD).tolist()])  # float32 values: ml_dtypes rounds those once
        expected = exact.astype(np.float32).astype(own(name)).astype(np.float64)
    found = round_to(exact, name)
    np.testing.assert_array_equal(found, expected)
    known = ~np.isnan(expected)
    assert np.array_equal(np.signbit(found)[known], np.signbit(expected)[known])


@pytest.mark.parametrize("name", ["tf32", "bfloat16", "float8_e5m2"])
@given(st.lists(st.floats(min_value=-60000, max_value=60000) | st.floats(-1e-37, 1e-37), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_moderate_values_are_rounded_as_the_others(name: str, numbers: list[float]) -> None:
    halfway = [(value + step) / 2 for value in numbers for step in (round_to(np.array([value * 1.01]), name)[0],)]
    exact = np.array([*numbers, *halfway, 0.0, -0.0])
    one_by_one = FORMATS[name].multiple(exact)
    found = round_to(exact, name)
    assert np.array_equal(found.view(np.int64), one_by_one.view(np.int64)), (exact, found, one_by_one)
    assert not found.size or found.base is not exact
    assert round_to(exact.reshape(-1, 1)[::2], name).shape == (-(-exact.size // 2), 1)


@pytest.mark.parametrize("name", ["tf32", "bfloat16", "float16", "float8_e4m3fn"])
@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60)
def test_towards_zero_lies_between_zero_and_the_value(name: str, number: float) -> None:
    [found] = round_to(np.array([number]), name, truncate=True)
    kind = FORMATS[name]
    assert round_to(np.array([found]), name) == found  # the format holds it
    assert abs(found) <= min(abs(number), kind.largest) and np.signbit(found) == np.signbit(number)
    if abs(number) < kind.largest:
        assert abs(number) - abs(found) < kind.quantum(np.array(number))


def test_a_single_number_keeps_its_shape() -> None:
    assert round_to(np.array(1e9), "float8_e5m2").shape == ()
    assert round_to(np.array(1e9), "float8_e5m2") == np.inf and np.isnan(round_to(np.array(1e9), "float8_e4m3fn"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_holds_another_exactly_where_rounding_changes_none_of_its_numbers(name: str) -> None:
    for other, kind in FORMATS.items():
        ends = [kind.largest, kind.smallest, kind.smallest_normal, kind.value(kind.top - 2), kind.value(3)]
        numbers = np.array([number for number in ends if np.isfinite(number)])
        numbers = np.concatenate([numbers, -numbers] if kind.sign else [numbers])
        with np.errstate(over="ignore"):
            unchanged = bool((round_to(numbers, name) == numbers).all())
        negative = FORMATS[name].sign or not kind.sign
        assert FORMATS[name].holds(kind) == (unchanged and bool(negative)), other
