"""The thresholds' own consistency: they follow from their sources."""

import math

import numpy as np
import pytest

from whydiff.errors import UsageError
from whydiff.numbers import metrics, tolerance


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
def test_unit_roundoff_is_half_of_numpys_epsilon(dtype: str) -> None:
    assert tolerance.unit_roundoff(dtype) == np.finfo(dtype).eps / 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_unit_roundoff_is_half_of_the_step_above_one(dtype: str) -> None:
    # From the codes themselves: torch.finfo of 2.13 gives half of the true eps for float8_e5m2fnuz.
    codes = np.arange(1 << 16, dtype=np.uint16) if dtype == "bfloat16" else np.arange(256, dtype=np.uint8)
    values = metrics.values(codes, dtype)
    assert tolerance.unit_roundoff(dtype) == (values[values > 1].min() - 1) / 2


def test_integers_have_no_unit_roundoff() -> None:
    with pytest.raises(UsageError, match=r"no unit roundoff[\s\S]*int64[\s\S]*float32"):
        tolerance.unit_roundoff("int64")


@pytest.mark.parametrize("reference", [*tolerance.TORCH_TOLERANCES, "int64", "bool"])
@pytest.mark.parametrize("candidate", ["float32", "bfloat16", "int32"])
def test_the_default_is_that_of_the_installed_torch(reference: str, candidate: str) -> None:
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torch.testing._comparison").default_tolerances
    ours = tolerance.default_tolerance(reference, candidate)
    assert (ours.rtol, ours.atol) == theirs(getattr(torch, reference), getattr(torch, candidate))
    assert reference in ours.source and candidate in ours.source and "assert_close" in ours.source


def test_one_dtype_is_compared_with_itself() -> None:
    assert tolerance.default_tolerance("bfloat16") == tolerance.default_tolerance("bfloat16", "bfloat16")
    assert tolerance.default_tolerance("bfloat16").source.count("bfloat16") == 1


def test_the_local_bound_holds_with_the_stated_probability() -> None:
    # Hoeffding's two-sided tail 2 exp(-lambda**2 / 2), times N outputs, is delta.
    for outputs in (1, 4096, 10**9):
        factor = tolerance.local_bound_lambda(outputs)
        assert 2 * math.exp(-(factor**2) / 2) * outputs == pytest.approx(tolerance.LOCAL_BOUND_DELTA)
    assert tolerance.local_bound_lambda(1, 0.5) < tolerance.local_bound_lambda(1, 0.1)


def test_the_floors_quantile_is_students() -> None:
    stats = pytest.importorskip("scipy.stats")
    assert pytest.approx(stats.t.ppf(1 - 1e-3, tolerance.FLOOR_RUNS - 1), abs=1e-3) == tolerance.FLOOR_T


def test_the_slopes_leave_the_stated_margin() -> None:
    bits = math.log2(tolerance.UNIT_ROUNDOFF["float32"] / tolerance.UNIT_ROUNDOFF["float64"])
    assert 2 ** (bits * (1 - tolerance.SLOPE_ROUNDING)) == pytest.approx(152, abs=1)
    assert pytest.approx(1) == tolerance.SLOPE_ROUNDING + tolerance.SLOPE_SEMANTIC


def test_the_sample_misses_rare_defects_with_the_stated_probability() -> None:
    assert pytest.approx(0.02, abs=0.005) == (1 - 1e-3) ** tolerance.SAMPLE
