"""Small programs are compared without loading numba, and get the same values."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.forked import ran

from whydiff.numbers import fingerprint as fp
from whydiff.numbers import ranges
from whydiff.numbers.metrics import _one_pass, measure
from whydiff.numbers.ranges import _plain
from whydiff.records import Payload


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(st.integers(0, 40), st.integers(0, 40_000), st.sampled_from([32767, 32768, 32769])), st.integers(0, 9))
def test_plain_numpy_gives_the_value_of_the_definition(size, seed):
    octets = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    assert fp._numpy_share(octets.ctypes.data, size, 0, 1) == fp.fingerprint_reference(octets)


def test_numba_is_loaded_when_it_pays(monkeypatch):
    loaded = []
    monkeypatch.setattr(fp, "_spent", 0.0)
    monkeypatch.setattr(fp, "_load_kernel", lambda: loaded.append(1) or fp._numpy_share)
    for _ in range(100):
        fp._kernel_for(1, 4096)
    assert not loaded
    fp._kernel_for(1, 1 << 30)
    assert loaded


def test_ranges_load_numba_when_it_pays(monkeypatch):
    compiled = ranges._compiled()
    monkeypatch.setattr(ranges, "_spent", 0.0)
    assert {ranges._scanner(4096) for _ in range(100)} == {_plain.scan}
    assert ranges._scanner(1 << 30) is compiled is not _plain.scan


@pytest.mark.parametrize("size", [1, 17, _one_pass.SMALL])
def test_small_tensors_have_the_same_statistics(size):
    generator = np.random.default_rng(size)
    r = generator.standard_normal(size).astype(np.float32)
    c = r.copy()
    c[::3] += np.float32(1e-3)
    c[-1] = np.nan
    small = measure(Payload(r, "float32"), Payload(c, "float32"))
    sums, counts, powers, top = _one_pass.numba_share(r, c, "float32", 0.0, 0.0)
    assert (small.max_ulp, small.ulp_at_least) == (top, tuple(powers.tolist()))
    assert small.different == counts[_one_pass.COUNTS.index("different")]
    assert small.sum_abs == pytest.approx(sums[_one_pass.SUMS.index("sum_abs")], rel=1e-12)


def compared():
    import torch

    import whydiff

    x = torch.arange(5000.0)
    print(whydiff.compare(lambda: x * 2, lambda: x * 2.5).verdict, "numba" in sys.modules)


def test_a_small_comparison_imports_no_numba(tmp_path):
    done = ran(compared, cwd=tmp_path)
    assert done.stdout == "semantic False\n", done.stderr
