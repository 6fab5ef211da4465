"""Rounding, formulas and statistics against independent calculations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pairs import Ops

from whydiff.explain.activations import gelu
from whydiff.explain.local_test import formulas
from whydiff.explain.local_test.families import evaluate, kind_of, oracle_of, terms_of
from whydiff.explain.local_test.measures import match_z, measure_side
from whydiff.explain.local_test.operation import sample_of
from whydiff.numbers.formats import round_to


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), min_size=1))
def test_rounding_to_nearest_equals_the_frameworks_own(numbers: list[float]) -> None:
    values = np.array(numbers)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(round_to(values, "float16"), values.astype(np.float16).astype(np.float64))
        single = values.astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(round_to(values, "float32"), single)
    ours = torch.from_numpy(single).float().bfloat16().double().numpy()
    np.testing.assert_array_equal(round_to(single, "bfloat16"), ours)


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_truncation_drops_the_low_bits(number: float) -> None:
    bits = np.array([number], np.float32).view(np.uint32)
    for name, mask in (("bfloat16", 0xFFFF0000), ("tf32", 0xFFFFE000)):
        expected = (bits & np.uint32(mask)).view(np.float32).astype(np.float64)
        if abs(number) >= 2.0**-126:
            np.testing.assert_array_equal(round_to(np.array([number]), name, truncate=True), expected)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


PRODUCTS = {
    "mm": (torch.mm, (drawn(5, 7), drawn(7, 3)), 7),
    "bmm": (torch.bmm, (drawn(2, 5, 7), drawn(2, 7, 3)), 7),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=2), (drawn(3), drawn(5, 7), drawn(7, 3)), 8),
    "baddbmm": (lambda c, a, b: torch.baddbmm(c, a, b, alpha=3), (drawn(2, 5, 3), drawn(2, 5, 7), drawn(2, 7, 3)), 8),
    "mv": (torch.mv, (drawn(5, 7), drawn(7)), 7),
    "addmv": (torch.addmv, (drawn(5), drawn(5, 7), drawn(7)), 8),
    "dot": (torch.dot, (drawn(7), drawn(7)), 7),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sampled_products_equal_the_whole_op(name: str) -> None:
    function, inputs, terms = PRODUCTS[name]
    with Ops() as ops:
        op = ops.recorded(function, *inputs)
        assert (op.name, kind_of(op), terms_of(op, "product")) == (name, "product", terms)
        index = sample_of(op.shape)
        expected = function(*(t.double() for t in inputs)).reshape(-1).numpy()
        np.testing.assert_allclose(evaluate(op, index), expected, rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(op.run(op.reads, op.arguments).reshape(-1), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("masked", ["none", "causal", "bias", "grouped"])
def test_attention_equals_float64_attention(masked: str) -> None:
    q, k, v = drawn(2, 4, 9, 8), drawn(2, 4, 9, 8) / 2, drawn(2, 4, 9, 8) + 1
    bias = drawn(2, 4, 9, 9)
    if masked == "grouped":
        k, v = k[:, :2], v[:, :2]

    def attend(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(
            a, b, c, attn_mask=d if masked == "bias" else None, is_causal=masked == "causal", enable_gqa=True
        )

    with Ops() as ops:
        op = ops.recorded(attend, q, k, v, bias)
        assert kind_of(op) == "attention"
        expected = attend(q.double(), k.double(), v.double(), bias.double())
        values, size = formulas.attention_at(op, sample_of(op.shape, rows=True))
        np.testing.assert_allclose(values, expected.reshape(-1).numpy(), rtol=1e-12, atol=1e-14)
        assert np.all(size >= np.abs(values) * (1 - 1e-12))


def test_norms_equal_float64_norms() -> None:
    x, w, b = drawn(6, 40) + 2, drawn(40), drawn(40)
    with Ops() as ops:
        op = ops.recorded(lambda t, v, c: F.layer_norm(t, (40,), v, c, 1e-3), x, w, b)
        expected = F.layer_norm(x.double(), (40,), w.double(), b.double(), 1e-3).numpy()
        np.testing.assert_allclose(formulas.norm(op)[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("form", ["none", "tanh"])
def test_gelu_equals_torchs(form: str) -> None:
    x = drawn(100).double() * 4
    np.testing.assert_allclose(gelu(x.numpy(), form), F.gelu(x, approximate=form).numpy(), atol=1e-15)


def test_a_sample_is_seeded_sorted_and_of_whole_rows() -> None:
    sample = sample_of((1000, 1000))
    assert sample.size == 4096 and np.all(np.diff(sample) > 0)
    np.testing.assert_array_equal(sample, sample_of((1000, 1000)))
    rows = sample_of((2, 8, 300, 64), rows=True)
    assert rows.size == 4096 and np.all(rows.reshape(-1, 64)[:, 0] % 64 == 0)


def test_the_precision_class_of_tf32_does_not_depend_on_the_length() -> None:
    with Ops() as ops:
        for k in (64, 512, 2048):
            x, w = drawn(8, k), drawn(k, 64).t().contiguous().t()
            op = ops.recorded(torch.mm, x, w)
            oracle = oracle_of(op)
            a, b = (torch.from_numpy(round_to(t.double().numpy(), "tf32")) for t in (x, w))
            measured = measure_side((a @ b).reshape(-1).numpy(), oracle, "float32")
            assert measured.bits == pytest.approx(11.7, abs=0.3)
            plain = measure_side((x @ w).double().reshape(-1).numpy(), oracle, "float32")
            assert plain.within_bound and plain.bits > 20
            assert match_z(plain, measured) > 0


def test_one_wrong_output_breaks_the_bound_and_is_counted() -> None:
    with Ops() as ops:
        x, w = drawn(8, 64), drawn(64, 8)
        op = ops.recorded(torch.mm, x, w)
        oracle = oracle_of(op)
        values = (x @ w).double().reshape(-1).numpy()
        values[17] += 0.1
        measured = measure_side(values, oracle, "float32")
        assert measured.over == 1 and measured.excess > 1 and measured.peak > 7


def test_infinities_are_not_averaged_away() -> None:
    with Ops() as ops:
        op = ops.recorded(torch.mm, drawn(4, 8), drawn(8, 4))
        oracle = oracle_of(op)
        values = oracle.exact.copy()
        values[3] = math.inf
        assert measure_side(values, oracle, "float32").nonfinite == 1
