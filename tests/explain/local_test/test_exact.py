"""Payloads of any size and dtype as the oracle reads them: their exact values, made where they are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import Ops

from whydiff.explain.local_test import exact, judge_outputs
from whydiff.explain.local_test.exact import Reads, exact_values
from whydiff.numbers.metrics import bits_dtype, values
from whydiff.records import Payload


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [1, 8, 30, 65], ids=str)
def test_values_of_many_blocks_are_those_of_one(monkeypatch: pytest.MonkeyPatch, dtype: str, size: int) -> None:
    monkeypatch.setattr(exact, "_BLOCK", 8)
    bits = np.random.default_rng(size).integers(0, 100, (2, size)).astype(bits_dtype(dtype))
    for looked_at in (bits, bits.T):
        found = exact_values(Payload(looked_at, dtype))
        assert found.dtype == np.float64 and found.shape == looked_at.shape
        assert np.array_equal(found, values(looked_at, dtype).astype(np.float64))


def test_whole_numbers_stay_what_they_are_and_complex_numbers_are_pairs() -> None:
    assert exact_values(Payload(np.arange(3), "int64")).dtype == np.int64
    assert exact_values(Payload(np.ones(3, np.complex64), "complex64")).shape == (3, 2)


def test_reads_are_widened_once_and_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    widened = []
    monkeypatch.setattr(
        exact, "exact_values", lambda payload: widened.append(payload.bits.size) or exact_values(payload)
    )
    reads = Reads([Payload(np.ones(size, np.float32), "float32") for size in (3, 4, 5)])
    assert len(reads) == 3 and widened == []
    assert reads[1] is reads[-2] and reads[1].dtype == np.float64
    assert widened == [4]
    assert [len(one) for one in reads] == [3, 4, 5] and [len(one) for one in reads[1:]] == [4, 5]
    assert widened == [4, 3, 5]


def test_a_product_of_another_batch_is_judged_without_widening_an_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    widened = []
    monkeypatch.setattr(
        exact, "exact_values", lambda payload: widened.append(payload.bits.shape) or exact_values(payload)
    )
    x, weight = (torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).bfloat16() for seed in (0, 1))
    with Ops() as ops:
        one, eight = (ops.recorded(torch.mm, rows, weight.t()) for rows in (x[:1], x))
        output = Payload((x[:1] @ weight.t()).view(torch.int16).numpy().view(np.uint16), "bfloat16")
        assert judge_outputs(one, output, output, eight).verdict.value == "rounding"
    assert widened == []
