"""Sampled products against whole ones, in every layout that an operand can have in memory, plain and compiled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.numbers import products
from whydiff.numbers.metrics import bits_dtype, values
from whydiff.numbers.products import Operand, _gathered, product_at, sums_at

SIZES = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 300), st.integers(1, 40))
LAYOUTS = st.tuples(st.booleans(), st.booleans())


def laid(generator: np.random.Generator, shape: tuple[int, int, int], across: bool, dtype: str = "float64") -> Operand:
    batch, rows, terms = shape
    numbers = generator.standard_normal((batch, terms, rows) if across else shape)
    if dtype == "bfloat16":
        bits = (numbers.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    else:
        bits = (numbers * 100).astype(bits_dtype(dtype)) if dtype == "int32" else numbers.astype(bits_dtype(dtype))
    return Operand(np.swapaxes(bits, 1, 2) if across else bits, dtype)


def looked_at(operand: Operand) -> Operand:
    """Read-only, at an odd address: a payload on disk."""
    bits = operand.bits
    memory = np.frombuffer(b"." + bits.tobytes("A"), np.uint8)[1:].view(bits.dtype)
    memory.flags.writeable = False
    return Operand(np.lib.stride_tricks.as_strided(memory, bits.shape, bits.strides, writeable=False), operand.dtype)


def sample(generator: np.random.Generator, outputs: int, most: int = 50) -> np.ndarray:
    return np.sort(generator.choice(outputs, min(outputs, most), replace=False))


@settings(deadline=None, derandomize=True, max_examples=60)
@given(sizes=SIZES, across=LAYOUTS, share=st.sampled_from([1, 64]), piece=st.sampled_from([7, 1 << 15]))
def test_sampled_sums_are_those_of_all_terms(
    sizes: tuple[int, int, int, int], across: tuple[bool, bool], share: int, piece: int
) -> None:
    batch, m, k, n = sizes
    generator = np.random.default_rng(batch + m + k + n)
    left, right = laid(generator, (batch, m, k), across[0]), laid(generator, (batch, n, k), across[1])
    index = sample(generator, batch * m * n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products, "_SHARE", share)
        patch.setattr(products, "_PIECE", piece)
        sums = sums_at(left, right, index)
        rounded = product_at(left, right, index, (lambda numbers: np.float32(numbers).astype(np.float64), np.abs))
    terms = left.bits[:, :, None, :] * right.bits[:, None, :, :]
    wanted = [made(terms).sum(-1).reshape(-1)[index] for made in (np.asarray, np.abs, np.square)]
    np.testing.assert_allclose(sums, wanted, rtol=1e-12, atol=1e-12)
    others = (np.float32(left.bits).astype(np.float64)[:, :, None, :] * np.abs(right.bits)[:, None, :, :]).sum(-1)
    np.testing.assert_allclose(rounded, others.reshape(-1)[index], rtol=1e-12, atol=1e-12)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    sizes=SIZES,
    across=LAYOUTS,
    dtypes=st.tuples(*[st.sampled_from(["bfloat16", "float16", "float32", "float64", "int32"])] * 2),
    most=st.sampled_from([2, 9, 10, 50]),
    rows=st.sampled_from([8, 4096]),
    piece=st.sampled_from([7, 100, 1 << 15]),
)
def test_compiled_and_plain_sums_have_the_same_bits(
    sizes: tuple[int, int, int, int],
    across: tuple[bool, bool],
    dtypes: tuple[str, str],
    most: int,
    rows: int,
    piece: int,
) -> None:
    batch, m, k, n = sizes
    generator = np.random.default_rng(batch + m + k + n)
    left, right = (
        laid(generator, (batch, m, k), across[0], dtypes[0]),
        laid(generator, (batch, n, k), across[1], dtypes[1]),
    )
    left, right = looked_at(left), looked_at(right)
    index = sample(generator, batch * m * n, most)
    found = []
    for spent in (-1e9, 1e9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(products, "_spent", spent)
            patch.setattr(products, "_ROWS_ACROSS", rows)
            patch.setattr(products, "_PIECE", piece)
            patch.setattr(products, "_SHARE", 2)
            found.append((sums_at(left, right, index), product_at(left, right, index, (np.abs, np.negative))))
    for plain, compiled in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, compiled)


def test_much_is_added_by_the_kernel_and_little_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(products, "_loaded", lambda: lambda *given: calls.append(given[2].size))
    monkeypatch.setattr(products, "_spent", 0.0)
    generator = np.random.default_rng(0)
    left, right = laid(generator, (1, 64, 512), False), laid(generator, (1, 64, 512), True)
    sums_at(left, right, np.arange(64))
    assert not calls
    for _ in range(300):
        sums_at(left, right, np.arange(4096))
        if calls:
            break
    assert set(calls) == {4096}


def test_a_sample_of_a_large_operand_widens_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    widened = []

    def noted(bits: np.ndarray, dtype: str) -> np.ndarray:
        widened.append(bits.size)
        return values(bits, dtype)

    monkeypatch.setattr(products, "values", noted)
    generator = np.random.default_rng(0)
    left, right = laid(generator, (1, 4, 64), False, "bfloat16"), laid(generator, (1, 5000, 64), True, "bfloat16")
    for spent in (-1e9, 1e9):
        monkeypatch.setattr(products, "_spent", spent)
        sums_at(left, right, np.array([3, 4000, 9999, 10000]))
    assert sum(widened) <= 2 * 2 * 4 * 64


def test_a_product_of_no_terms_is_zero() -> None:
    left, right = Operand(np.ones((1, 2, 0)), "float64"), Operand(np.ones((1, 3, 0)), "float64")
    assert sums_at(left, right, np.arange(6)).tolist() == [[0.0] * 6] * 3


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [7, 300])
def test_rows_of_a_transposed_operand(transposed: bool, rows: int) -> None:
    generator = np.random.default_rng(0)
    operand = generator.standard_normal((2, 130, 40) if transposed else (2, 40, 130))
    operand = np.swapaxes(operand, -1, -2) if transposed else operand
    row = generator.integers(0, 40, rows)
    for batch in (np.ones(rows, int), np.sort(generator.integers(0, 2, rows))):
        for terms in (slice(0, 64), slice(100, 130)):
            found = _gathered(Operand(operand, "float64"), batch, row, terms, transposed)
            assert np.array_equal(found, operand[batch, row, terms].T)
            assert found.flags.c_contiguous is transposed
