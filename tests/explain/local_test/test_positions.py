"""Where the elements of one look at memory are in another look at it."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.explain.local_test.looks import layout_of
from whydiff.explain.local_test.replays import _found_in, _offsets, positions
from whydiff.records import Event, Site, TensorSpec

SITE = Site(scope="", op="op", phase="forward", step=0, rank=0, occurrence=0)


def event(shape, strides, offset=0, dtype="float32", storage=1):
    return Event(SITE, TensorSpec(tuple(shape), dtype, "cpu", tuple(strides), offset), storage)


@st.composite
def looks(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dense = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    order = draw(st.permutations(range(len(shape))))
    scale = draw(st.sampled_from([1, 1, 1, 2, 50]))
    strides = [dense[i] * scale for i in order]
    if draw(st.booleans()) and len(shape) > 1:
        strides[draw(st.integers(0, len(shape) - 1))] = 0
    return event([shape[i] for i in order], strides, draw(st.sampled_from([0, 0, 1])))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(looks(), st.one_of(looks(), st.none()))
def test_as_found_one_by_one(ours, theirs):
    theirs = theirs or ours
    mine, other = _offsets(*layout_of(ours)).tolist(), _offsets(*layout_of(theirs)).tolist()
    alike = len(mine) == len(other) and sorted(mine) == sorted(other) and len(set(mine)) == len(mine)
    found = positions([ours], theirs)
    if not alike:
        assert found is None
    else:
        assert found is not None
        assert [other[place] for place in found[1]] == mine


def test_a_transposed_look():
    slot, places = positions([event((2, 3), (3, 1))], event((3, 2), (1, 3)))
    assert (slot, places.tolist()) == (0, [0, 2, 4, 1, 3, 5])


def test_far_apart_and_close_together_give_the_same():
    ours, theirs = np.array([0, 9, 3]), np.array([3, 0, 9])
    assert _found_in(ours, theirs).tolist() == _found_in(ours * 1000, theirs * 1000).tolist() == [1, 2, 0]


def test_another_dtype_storage_or_part_is_no_rearrangement():
    written = event((4,), (1,))
    assert positions([written], event((4,), (1,), dtype="float16")) is None
    assert positions([written], event((4,), (1,), storage=2)) is None
    assert positions([written], event((2,), (1,))) is None
    assert positions([written], event((4,), (1,), 1)) is None
