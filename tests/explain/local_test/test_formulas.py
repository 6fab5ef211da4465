"""Sampled products against whole ones, in every layout that an operand can have in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.explain.local_test import formulas
from whydiff.explain.local_test.formulas import Product, product_at, sums_at


def laid(generator: np.random.Generator, shape: tuple[int, int, int], across: bool) -> np.ndarray:
    batch, rows, terms = shape
    values = generator.standard_normal((batch, terms, rows) if across else shape)
    return np.swapaxes(values, 1, 2) if across else values


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 300), st.integers(1, 40)),
    across=st.tuples(st.booleans(), st.booleans()),
    share=st.sampled_from([1, 64]),
    piece=st.sampled_from([7, 1 << 15]),
)
def test_sampled_sums_are_those_of_all_terms(
    sizes: tuple[int, int, int, int], across: tuple[bool, bool], share: int, piece: int
) -> None:
    batch, m, k, n = sizes
    generator = np.random.default_rng(batch + m + k + n)
    left, right = laid(generator, (batch, m, k), across[0]), laid(generator, (batch, n, k), across[1])
    parts = Product(left=left, right=right, bias=None, alpha=-0.5, beta=1.0, weight=1)
    index = np.sort(generator.choice(batch * m * n, min(batch * m * n, 50), replace=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formulas, "_SHARE", share)
        patch.setattr(formulas, "_PIECE", piece)
        sums = sums_at(parts, index)
        rounded = product_at(parts, index, lambda values: np.float32(values).astype(np.float64), np.abs)
    terms = left[:, :, None, :] * right[:, None, :, :]
    wanted = [made(terms).sum(-1).reshape(-1)[index] * -0.5 for made in (np.asarray, np.abs, np.square)]
    np.testing.assert_allclose(sums, wanted, rtol=1e-12, atol=1e-12)
    others = (np.float32(left).astype(np.float64)[:, :, None, :] * np.abs(right)[:, None, :, :]).sum(-1)
    np.testing.assert_allclose(rounded, others.reshape(-1)[index] * -0.5, rtol=1e-12, atol=1e-12)


def test_a_product_of_no_terms_is_zero() -> None:
    parts = Product(left=np.ones((1, 2, 0)), right=np.ones((1, 3, 0)), bias=None, alpha=1.0, beta=1.0, weight=1)
    assert sums_at(parts, np.arange(6)).tolist() == [[0.0] * 6] * 3
