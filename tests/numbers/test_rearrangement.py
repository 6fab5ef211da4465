"""Patterns say what they do, undo themselves, and are found again from the values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whydiff.errors import UsageError
from whydiff.numbers.rearrangement import candidates, parse

shapes = st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple)


@given(shapes, st.data())
def test_text_inverse_and_single_places_agree(shape: tuple[int, ...], data: st.DataObject) -> None:
    found = list(candidates(shape))
    if not found:
        return
    pattern = data.draw(st.sampled_from(found))
    places = pattern.indices()
    assert sorted(places) == list(range(math.prod(shape)))
    assert not np.array_equal(places, np.arange(places.size))
    assert pattern.shape == shape
    assert np.array_equal(parse(str(pattern), shape).indices(), places)
    assert np.array_equal(places[pattern.inverse.indices()], np.arange(places.size))
    assert np.array_equal(pattern.at(np.arange(places.size)), places)


def test_a_pattern_is_einops() -> None:
    x = np.arange(2 * 12).reshape(2, 12)
    moved = x.reshape(-1)[parse("b (h d) -> b (d h), h=3", x.shape).indices()].reshape(2, 12)
    assert np.array_equal(moved, x.reshape(2, 3, 4).transpose(0, 2, 1).reshape(2, 12))


@pytest.mark.parametrize("text", ["a b", "a -> b", "a (b c) -> a (c b)", "a (b c) -> a (c b), b=5", "a a -> a a"])
def test_what_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no rearrangement"):
        parse(text, (2, 12))
