from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.pair.sizes import narrow, placed
from whydiff.pair.slices import Axis, SliceMap, counterparts, options, same_but_for_sizes, settle
from whydiff.records import Payload


def equal(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.array_equal(one, other))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def written(value: np.ndarray, index: Any, part: np.ndarray) -> np.ndarray:
    changed = value.copy()
    changed[index] = part
    return changed


def texts(maps: tuple[SliceMap, ...]) -> list[str]:
    return [str(one) for one in maps]


def test_a_batch_dimension_is_one_row() -> None:
    assert texts(options((1, 7), (8, 7), (Axis(1, 8),))) == ["[0, :]"]


def test_a_length_in_two_dimensions_is_a_square() -> None:
    assert texts(options((1, 4, 61, 61), (1, 4, 70, 70), (Axis(61, 70),))) == ["[:, :, 0:61, 0:61]"]


def test_a_class_token_moves_the_window_by_its_own_place() -> None:
    found = options((1, 5, 8), (1, 9, 8), (Axis(4, 8),))
    assert "[:, 0:5, :]" in texts(found)
    assert "[:, 4:9, :]" in texts(found)


def test_a_merged_dimension_has_one_map_per_place_of_the_axis() -> None:
    found = options((12, 5), (24, 5), (Axis(1, 2),))
    assert len(found) == 6  # divisors of 12
    assert texts(found)[0] == "[0 of 1×2×12, :]"


@pytest.mark.parametrize("shapes", [((3, 4), (5, 4)), ((4,), (4, 1)), ((2, 0), (4, 3))])
def test_what_does_not_grow_in_step_has_no_map(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    assert options(*shapes, (Axis(1, 8),)) == ()


def test_equal_shapes_need_no_map() -> None:
    assert options((3, 4), (3, 4), (Axis(1, 8),)) == ()


def test_two_axes_at_once() -> None:
    one = options((1, 6, 3), (4, 9, 3), (Axis(1, 4, (2,)), Axis(6, 9, (3,))))[0]
    whole = np.arange(4 * 9 * 3).reshape(4, 9, 3)
    assert equal(one.part(whole), whole[2:3, 3:9])


def test_the_larger_side_may_be_the_reference() -> None:
    (one,) = options((8, 3), (1, 3), (Axis(8, 1, (5,)),))
    assert one.whole == "reference"
    whole = np.arange(24).reshape(8, 3)
    assert equal(one.part(whole), whole[5:6])


@given(
    outer=st.integers(1, 4),
    inner=st.integers(1, 4),
    rest=st.integers(1, 3),
    small=st.integers(1, 4),
    more=st.integers(1, 4),
    data=st.data(),
)
def test_the_true_map_is_among_the_options_and_the_values_choose_it(
    outer: int, inner: int, rest: int, small: int, more: int, data: st.DataObject
) -> None:
    """Any merged layout: distinct values, so only the true place of the axis gives the reference's bits."""
    large = small + more
    start = data.draw(st.integers(0, more))
    whole = np.random.default_rng(0).permutation(outer * large * inner * rest).astype(np.float64)
    split = whole.reshape(outer, large, inner, rest)
    part = split[:, start : start + small].reshape(outer * small * inner, rest)
    merged = whole.reshape(outer * large * inner, rest)
    maps = options(part.shape, merged.shape, (Axis(small, large, tuple(range(more + 1))),))
    chosen = settle(maps, part, merged, equal, distance)
    assert chosen.equal
    assert equal(chosen.map.part(merged), part)
    assert chosen.map.left_out == math.prod(merged.shape) - math.prod(part.shape)


@given(outer=st.integers(1, 3), axis=st.integers(2, 5), inner=st.integers(1, 3), data=st.data())
def test_putting_changes_the_part_and_nothing_else(outer: int, axis: int, inner: int, data: st.DataObject) -> None:
    small = data.draw(st.integers(1, axis - 1))
    start = data.draw(st.integers(0, axis - small))
    shape, large = (outer * small * inner, 2), (outer * axis * inner, 2)
    for one in options(shape, large, (Axis(small, axis, (start,)),)):
        whole = np.arange(math.prod(large), dtype=np.float64).reshape(large)
        changed = one.put(whole, np.full(shape, -1.0), written)
        assert np.all(one.part(changed) == -1.0)
        assert int((changed != whole).sum()) == math.prod(shape)
        assert whole.min() == 0  # the tensor that was given stays as it was


def test_where_none_is_equal_the_closest_is_taken_and_said() -> None:
    whole = np.random.default_rng(1).normal(size=(6, 4))
    maps = options((3, 4), (6, 4), (Axis(1, 2),))
    near = whole.reshape(3, 2, 4)[:, 0] + 1e-9
    chosen = settle(maps, near, whole, equal, distance)
    assert (chosen.how, chosen.equal, chosen.fitted) == ("closest", False, 2)
    assert str(chosen.map) == "[0 of 3×2×1, :]"


def test_the_start_is_read_off_the_inputs() -> None:
    batch = np.arange(24).reshape(8, 3)
    (axis,) = narrow((Axis(1, 8, tuple(range(8))),), [(batch[5:6], batch)], equal)
    assert axis.starts == (5,)


def test_inputs_that_agree_nowhere_keep_the_first_start() -> None:
    batch = np.arange(24).reshape(8, 3)
    (axis,) = narrow((Axis(1, 8, tuple(range(8))),), [(batch[5:6] + 100, batch)], equal)
    assert axis.starts == (0,)


@pytest.mark.parametrize(
    ("small", "axis"),
    [
        (lambda rows: rows[3:5], (12, 2, 3)),
        (lambda rows: rows.reshape(3, 4, 2)[:, 2], (4, 1, 2)),
        (lambda rows: rows[3:5] + 0.01, (12, 3 - 1, 3)),
        (lambda rows: rows[::-1][:2] + 5, None),
    ],
    ids=["there", "every fourth row", "nearly there", "nowhere"],
)
def test_inputs_are_placed_or_said_to_be_nowhere(small: Any, axis: tuple[int, int, int] | None) -> None:
    """In twelve rows; the sizes with which the rows are found, and where they begin."""
    rows = np.random.default_rng(2).normal(size=(12, 2))
    part = small(rows)
    one = Axis(12, len(part), tuple(range(13 - len(part))), "batch")
    found = placed((one,), [(rows, part), (np.ones((12, 2)), np.ones(part.shape))], equal, distance)
    assert (found and (found[0].reference, found[0].candidate, found[0].starts[0])) == axis


def test_what_is_alike_all_along_an_axis_places_nothing() -> None:
    one = Axis(12, 2, tuple(range(11)), "batch")
    assert placed((one,), [(np.ones((12, 2)), np.zeros((2, 2)))], equal, distance) == (replace(one, starts=(0,)),)


def test_arguments_may_differ_by_sizes_only() -> None:
    axes = (Axis(1, 8),)
    assert same_but_for_sizes([[1, 12, {"$read": 0}], {}], [[8, 96, {"$read": 0}], {}], axes)
    assert not same_but_for_sizes([[1], {"eps": 1e-5}], [[8], {"eps": 1e-6}], axes)
    assert not same_but_for_sizes([[True], {}], [[False], {}], axes)
    assert not same_but_for_sizes([[3], {}], [[5], {}], axes)


def test_host_tensors_are_cut_to_their_counterparts() -> None:
    batch = np.arange(12, dtype=np.uint16).reshape(4, 3)
    ours, theirs = counterparts(Payload(batch[2:3].copy(), "bfloat16"), Payload(batch, "bfloat16"), (Axis(1, 4, (2,)),))
    assert equal(ours.bits, theirs.bits)
    assert theirs.dtype == "bfloat16"


def test_whole_numbers_are_not_stretched_to_fit_and_other_values_may_be() -> None:
    both = (Axis(1, 2, (1,), "batch"), Axis(6, 9, (3,), "length"))
    assert [str(m) for m in options((6,), (9,), both, True)] == ["[3:9]"]
    assert "[1:3 of 1×3×3]" in [str(m) for m in options((6,), (9,), both)]
    # six tokens behind three of padding, after an op that takes three positions off
    assert "[0, 3:6, :]" in [str(m) for m in options((1, 3, 8), (2, 6, 8), (replace(both[0], starts=(0,)), both[1]))]
