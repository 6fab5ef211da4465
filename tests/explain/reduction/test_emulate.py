"""Sums along a tree against independent arithmetic."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from simulate import carried_out, chain, joined, trees

from whydiff.explain.reduction import Product, Terms, Tree, emulate
from whydiff.explain.reduction.emulate import fused_multiply_add
from whydiff.numbers.formats import round_to

float32s = st.floats(
    width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False, min_value=-(2.0**60), max_value=2.0**60
)


def nearest_float32(value: Fraction) -> np.float32:
    """Round a rational to float32, ties to even, by comparing with the neighbours."""
    first = np.float32(float(value))
    around = [first, np.nextafter(first, np.float32(-np.inf)), np.nextafter(first, np.float32(np.inf))]
    finite = [x for x in around if math.isfinite(x)]
    return min(finite, key=lambda x: (abs(Fraction(float(x)) - value), int(x.view(np.uint32)) & 1))


@given(float32s, float32s, float32s)
@settings(max_examples=200)
def test_a_fused_multiply_add_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assume(exact == 0 or 2.0**-120 < abs(exact) < 2.0**120)
    got = fused_multiply_add(np.array([a]), np.array([b]), np.array([c], np.float32))
    assert got[0] == nearest_float32(exact)


@pytest.mark.parametrize("sign", [1, -1])
def test_two_roundings_would_be_wrong_here(sign: int) -> None:
    """The product lies beside the middle of two float32; float64 rounds it onto the middle."""
    a, b, c = 1 + 2.0**-12, 1 + 2.0**-12 + 2.0**-23, sign * 2.0**-60
    c32 = np.array([c], np.float32)
    exact = Fraction(a) * Fraction(b) + Fraction(float(c32[0]))
    assert fused_multiply_add(np.array([a]), np.array([b]), c32)[0] == nearest_float32(exact)
    library = ctypes.util.find_library("m")
    if library is not None:
        fmaf = ctypes.CDLL(library).fmaf
        fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
        assert fmaf(a, b, c) == float(nearest_float32(exact))


@given(trees(wide=False), st.integers(0, 2**32))
@settings(max_examples=60)
def test_plain_sums_follow_the_tree(tree: Tree, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((7, tree.leaves)).astype(np.float32)
    assert np.array_equal(emulate(tree, Terms(values.T), Product.NONE), carried_out(tree, values))


def test_a_chain_of_rounded_products_is_a_loop() -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 300, 5)).astype(np.float32)
    total = np.zeros(5, np.float32)
    for a, b in zip(left, right, strict=True):
        total = total + a * b
    assert np.array_equal(emulate(chain(range(300)), Terms(left, right), Product.ROUNDED), total)


def test_fused_and_rounded_products_differ_and_exact_ones_do_not() -> None:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, 300, 50)).astype(np.float32)
    tree = chain(range(300))
    fused, rounded = (emulate(tree, Terms(left, right), product) for product in (Product.FUSED, Product.ROUNDED))
    assert not np.array_equal(fused, rounded)
    short = Terms(*(round_to(x.astype(np.float64), "bfloat16").astype(np.float32) for x in (left, right)))
    fused, rounded = (emulate(tree, short, product) for product in (Product.FUSED, Product.ROUNDED))
    assert np.array_equal(fused, rounded)


def test_a_fused_chain_is_math_fma_by_hand() -> None:
    random = np.random.default_rng(1)
    left, right = random.standard_normal((2, 40, 3)).astype(np.float32)
    got = emulate(chain(range(40)), Terms(left, right), Product.FUSED)
    for column in range(3):
        total = np.float32(0)
        for a, b in zip(left[:, column], right[:, column], strict=True):
            total = nearest_float32(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(total)))
        assert got[column] == total


def test_a_bias_is_not_a_product() -> None:
    left = np.array([[3.0], [5.0], [7.0]], np.float32)
    right = np.array([[2.0], [2.0], [1.0]], np.float32)
    for product in (Product.FUSED, Product.ROUNDED):
        for order in ([0, 1, 2], [2, 0, 1]):
            assert emulate(chain(order), Terms(left, right, frozenset({2})), product)[0] == 23.0


def test_many_outputs_are_cut_into_blocks() -> None:
    values = np.random.default_rng(0).standard_normal((9, 10_000)).astype(np.float32)
    tree = joined(9, [range(4), range(4, 9)])
    assert np.array_equal(emulate(tree, Terms(values), Product.NONE), carried_out(tree, values.T))
