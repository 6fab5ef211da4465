"""Payloads of any size and dtype as the oracle reads them: their exact values."""

from __future__ import annotations

import numpy as np
import pytest

from whydiff.explain.local_test import replays
from whydiff.explain.local_test.replays import exact_values
from whydiff.numbers.metrics import bits_dtype, values
from whydiff.records import Payload


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 8, 30, 65], ids=str)
def test_values_of_many_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch, dtype: str, size: int) -> None:
    monkeypatch.setattr(replays, "_BLOCK", 8)
    bits = np.random.default_rng(size).integers(0, 100, (2, size)).astype(bits_dtype(dtype))
    for looked_at in (bits, bits.T):
        found = exact_values(Payload(looked_at, dtype))
        assert found.dtype == np.float64 and found.shape == looked_at.shape
        assert np.array_equal(found, values(looked_at, dtype).astype(np.float64))


def test_whole_numbers_stay_what_they_are_and_complex_numbers_are_pairs() -> None:
    assert exact_values(Payload(np.arange(3), "int64")).dtype == np.int64
    assert exact_values(Payload(np.ones(3, np.complex64), "complex64")).shape == (3, 2)
