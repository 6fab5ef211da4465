"""What a difference at two precisions is called, at and beside every limit."""

from __future__ import annotations

import numpy as np
import pytest

from whydiff.explain.scale import Difference, Scale, choices, difference, worst
from whydiff.numbers.tolerance import SCALING_FLOOR, SLOPE_ROUNDING, SLOPE_SEMANTIC, unit_roundoff
from whydiff.records import Payload, Slot

BITS = unit_roundoff("float32") / unit_roundoff("float64")


def scale(single: float, double: float, special: int = 0) -> Scale:
    return Scale(Difference(single, 1.0), Difference(double, 1.0, special))


def sloping(slope: float) -> Scale:
    """A difference of 1e-3 in float32 whose slope this is."""
    return scale(1e-3, 1e-3 / BITS**slope)


@pytest.mark.parametrize(
    ("one", "nature"),
    [
        (scale(0, 0), "equal"),
        (scale(1e-7, 0), "rounding"),
        (scale(1e-7, SCALING_FLOOR), "rounding"),
        (scale(1e-7, SCALING_FLOOR * 2**12), "stays"),
        (scale(0, 1e-3), "between"),
        (scale(1e-3, 1e-3), "stays"),
        (scale(0, 0, special=1), "stays"),
        (scale(1e-7, 0, special=1), "stays"),
        (sloping(SLOPE_SEMANTIC - 0.01), "stays"),
        (sloping(SLOPE_SEMANTIC + 0.01), "between"),
    ],
)
def test_the_nature_of_a_difference(one: Scale, nature: str) -> None:
    assert one.nature == nature


def test_the_floor_is_a_share_of_the_magnitude() -> None:
    small = Scale(Difference(1e-9, 1e-9), Difference(SCALING_FLOOR / 2, 1e-9))
    large = Scale(Difference(1e-3, 1e6), Difference(SCALING_FLOOR * 1e5, 1e6))
    assert (small.nature, large.nature) == ("between", "rounding")


def test_what_is_faint_beside_other_numbers_and_stays_is_no_rounding() -> None:
    faint = Difference(0.05, 1e13, own=0.2)
    assert Scale(Difference(0.05, 1e13), faint).nature == "stays"
    assert Scale(Difference(0.05 * BITS, 1e13), faint).nature == "rounding"  # it shrinks: noise of what cancels
    assert Scale(Difference(0.05, 1e13), Difference(0.05, 1e13, own=1e-8)).nature == "rounding"  # a constant in float32


def test_what_differs_is_also_held_against_itself_where_it_is_faint() -> None:
    ours, theirs = np.array([1e15, 2e15, 1.0, -2.0, np.inf]), np.array([1e15, 2e15, 1.5, -2.0, np.inf])
    found = difference(Payload(ours, "float64"), Payload(theirs, "float64"))
    assert found is not None and found.own == 0.5
    found = difference(Payload(ours[2:], "float64"), Payload(theirs[2:], "float64"))
    assert found is not None and found.own == 0.0


def test_the_slope_decides_above_the_floor() -> None:
    steep = Scale(Difference(1.0, 1e-9), Difference(1 / BITS ** (SLOPE_ROUNDING + 0.01), 1e-9))
    flat = Scale(Difference(1.0, 1e-9), Difference(1 / BITS ** (SLOPE_ROUNDING - 0.01), 1e-9))
    assert (steep.nature, flat.nature) == ("rounding", "between")
    assert steep.slope == pytest.approx(SLOPE_ROUNDING + 0.01)


def payload(*numbers: float, dtype: type = np.float64) -> Payload:
    return Payload(np.array(numbers, dtype), np.dtype(dtype).name)


def test_the_magnitude_is_the_references() -> None:
    found = difference(payload(3, -4), payload(0, 0))
    assert found == Difference(3.5, (25 / 2) ** 0.5)
    assert difference(payload(0, 0), payload(3, -4)) == Difference(3.5, 0.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "special"),
    [
        ((np.nan, 1), (np.nan, 2), 0),
        ((np.nan, 1), (0, 1), 1),
        ((1, 1), (np.nan, 1), 1),
        ((np.inf, 1), (np.inf, 1), 0),
        ((np.inf, 1), (-np.inf, 1), 1),
        ((np.inf, 1), (1, 1), 1),
    ],
)
def test_what_is_not_finite_on_one_side_only_is_special(
    ours: tuple[float, ...], theirs: tuple[float, ...], special: int
) -> None:
    found = difference(payload(*ours), payload(*theirs))
    assert found is not None and found.special == special


def test_what_has_no_distance() -> None:
    assert difference(payload(1, 2), payload(1, 2, 3)) is None
    assert difference(payload(1, dtype=np.int64), payload(1, dtype=np.int64)) is None
    assert difference(payload(np.nan), payload(np.nan)) is None


def test_what_is_chosen_is_counted_whatever_its_width() -> None:
    ours, theirs = payload(1, 2, 3, -1, dtype=np.int64), payload(1, 2, 4, -1, dtype=np.int32)
    found = choices(ours, theirs)
    assert found == Difference(0.25, 1.0, discrete=True)
    assert str(Scale(found, found)) == "elements that differ: 25.0% in float32, 25.0% in float64"
    assert choices(payload(1.0), payload(2.0)) is None
    assert choices(ours, payload(1, dtype=np.int64)) is None


def test_the_worst_slot_is_the_one_that_shrinks_least_then_the_largest() -> None:
    slots = [Slot(0, name) for name in ("equal", "rounding", "small", "large")]
    single = dict(zip(slots, (Difference(m, 1.0) for m in (0, 1e-7, 1e-3, 1e-2)), strict=True))
    double = dict(zip(slots, (Difference(m, 1.0) for m in (0, 1e-16, 1e-3, 1e-2)), strict=True))
    found = worst(single, double)
    assert found is not None and found.where == str(slots[3])
    assert worst({slots[0]: single[slots[0]]}, {slots[0]: double[slots[0]]}).nature == "equal"  # type: ignore[union-attr]
    assert worst({slots[0]: None}, double) is None
