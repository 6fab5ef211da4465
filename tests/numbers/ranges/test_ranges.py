"""Range statistics against plain numpy and torch, for every format."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whydiff.errors import UsageError
from whydiff.numbers import ranges
from whydiff.numbers.ranges import LIMITS, Tally, _kernel, _plain, limits, measure_array, narrower

_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_WIDTH = {name: (1 + form.exponent_bits + form.fraction_bits) // 8 for name, form in LIMITS.items()}


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled scan, however small the tensor."""
    monkeypatch.setattr(ranges, "_spent", math.inf)


def as_float64(bits: np.ndarray[Any, Any], dtype: str) -> np.ndarray[Any, Any]:
    signed = bits.view(f"i{bits.itemsize}") if bits.itemsize > 1 else bits
    return torch.from_numpy(signed.copy()).view(getattr(torch, dtype)).double().numpy()


@pytest.mark.parametrize("dtype", LIMITS)
def test_limits_are_those_of_the_framework(dtype: str) -> None:
    info = torch.finfo(getattr(torch, dtype))
    form = limits(dtype)
    assert (form.largest, form.smallest_normal) == (info.max, info.smallest_normal)
    largest = as_float64(np.array([form.top - 1], _BITS[_WIDTH[dtype]]), dtype)
    assert largest[0] == form.largest
    assert as_float64(np.array([1], _BITS[_WIDTH[dtype]]), dtype)[0] == form.smallest


@pytest.mark.parametrize("dtype", LIMITS)
@given(data=st.data())
@settings(max_examples=40)
def test_statistics_equal_a_float64_calculation(dtype: str, data: st.DataObject) -> None:
    width = _WIDTH[dtype]
    words = data.draw(st.lists(st.integers(0, 256**width - 1), max_size=70))
    special = [0, 1, limits(dtype).top - 1, limits(dtype).top, 256**width // 2]
    words += data.draw(st.lists(st.sampled_from(special), max_size=9))
    bits = np.array(words, _BITS[width])
    found = measure_array(bits, dtype)
    values = np.abs(as_float64(bits, dtype))
    finite = values[np.isfinite(values)]
    present = finite[finite > 0]
    assert (found.elements, found.zeros) == (bits.size, int((values == 0).sum()))
    assert (found.infs, found.nans) == (int(np.isinf(values).sum()), int(np.isnan(values).sum()))
    assert found.subnormals == int((present < limits(dtype).smallest_normal).sum())
    assert found.max_abs == (finite.max() if finite.size else 0.0)
    assert found.min_abs == (present.min() if present.size else math.inf)
    assert sum(found.exponents.values()) == present.size


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("special", [0.0, 1e-4])
def test_kernel_and_plain_numpy_agree(dtype: str, special: float) -> None:
    generator, form, width = np.random.default_rng(0), limits(dtype), _WIDTH[dtype]
    bits = generator.integers(0, 256**width, 50_001, dtype=_BITS[width])
    magnitude = bits & _BITS[width](256**width // 2 - 1)
    bits[magnitude >= form.top] = 0
    bits[generator.random(bits.size) < special] = form.top
    results = []
    for scan in (_kernel.scan, _plain.scan):
        row = np.zeros(6 + 2**form.exponent_bits, np.uint64)
        row[5] = 2**64 - 1
        found = scan(bits.ctypes.data, 1, 50_001, width, form.fraction_bits, form.bias, form.top, row)
        results.append((found, row.tolist()))
    assert results[0] == results[1]
    (largest, not_finite, zeros), _ = results[0]
    values = np.abs(as_float64(bits[1:], dtype))
    assert (not_finite, zeros) == (int((~np.isfinite(values)).sum()), int((values == 0).sum()))
    assert largest == values[np.isfinite(values)].max()


def test_a_tally_adds_up_and_spreads_large_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
    array[[17, 9000]] = np.inf, 0
    whole = measure_array(array, "float32")
    monkeypatch.setattr("whydiff.numbers.ranges._PART", 1000)
    tally = Tally("float32")
    assert tally.add(array.ctypes.data, 7000) == (float(np.abs(np.delete(array[:7000], 17)).max()), 1, 0)
    assert tally.add(array[7000:].ctypes.data, 3000)[1:] == (0, 1)
    assert tally.range() == whole
    assert Tally("float32").range() == measure_array(array[:0], "float32")


def test_headroom_is_in_bits_and_says_what_a_narrower_format_loses() -> None:
    found = measure_array(np.array([2.0**-20, 1.0, 131008.0], np.float32), "float32")
    assert found.headroom("float16") == pytest.approx(math.log2(65504 / 131008))
    assert found.over("float16") == pytest.approx(1 / 3)
    assert found.over("float32") == 0.0
    assert found.depth("float16") == pytest.approx(-6)
    assert found.under("float16") == 0.0  # a subnormal there, not zero
    assert measure_array(np.array([1e-9], np.float32), "float32").under("float16") == 1.0


@given(st.lists(st.floats(width=32), min_size=1, max_size=30), st.integers(0, 30))
def test_merging_parts_equals_measuring_the_whole(values: list[float], cut: int) -> None:
    array = np.array(values, np.float32)
    whole = measure_array(array, "float32")
    parts = measure_array(array[:cut], "float32").merged(measure_array(array[cut:], "float32"))
    assert whole == parts


def test_narrower_formats_and_unknown_ones() -> None:
    assert narrower("float32") == ("bfloat16", "float16", "float8_e5m2", "float8_e4m3fn")
    assert "float16" in narrower("bfloat16")
    with pytest.raises(UsageError, match="not known"):
        limits("int8")
