"""Layouts: what lies in row-major order, as numpy says it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whydiff.records import TensorSpec


@given(st.lists(st.integers(1, 4), max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_dense_is_contiguous(shape: list[int], chance: object, broadcast: bool) -> None:
    array = np.zeros(shape, np.float32)
    order = list(range(len(shape)))
    chance.shuffle(order)  # type: ignore[attr-defined]
    seen = array.transpose(order)
    if broadcast:
        seen = np.broadcast_to(seen, (2, *seen.shape))
    spec = TensorSpec(shape=seen.shape, dtype="float32", strides=tuple(step // 4 for step in seen.strides))
    assert spec.is_dense == seen.flags.c_contiguous
    assert spec.numel == seen.size


def test_where_no_layout_is_known_it_counts_as_dense() -> None:
    assert TensorSpec(shape=(2, 3), dtype="float32").is_dense
