"""A formula that loses digits which another one of the same function keeps."""

from __future__ import annotations

import numpy as np

from whydiff.numbers.cancellation import cancelled
from whydiff.numbers.tolerance import CANCELLED_SAMPLE

UNIT = 2.0**-24


def variance_errors(mean: float) -> tuple[float, float]:
    """Relative rms errors, in float32, of E[x**2] - E[x]**2 and of E[(x - E[x])**2] over 64 samples."""
    values = np.random.default_rng(0).normal(mean, 1.0, (64, 512)).astype(np.float32)
    exact = values.astype(np.float64).var(axis=1)
    one_pass = (values * values).mean(axis=1) - values.mean(axis=1) ** 2
    two_pass = ((values - values.mean(axis=1, keepdims=True)) ** 2).mean(axis=1)
    size = float(np.sqrt((exact**2).mean()))
    rms = [float(np.sqrt(((side.astype(np.float64) - exact) ** 2).mean())) / size for side in (one_pass, two_pass)]
    return rms[0], rms[1]


def test_the_one_pass_variance_of_a_far_mean_cancels_and_the_side_is_named() -> None:
    errors = variance_errors(300.0)
    found = cancelled(errors, (UNIT, UNIT), 64)
    assert found is not None and found.worse == 0 and found.lost > found.digits / 2 > found.other
    swapped = cancelled(errors[::-1], (UNIT, UNIT), 64)
    assert swapped is not None and swapped.worse == 1


def test_near_zero_mean_nothing_cancels() -> None:
    assert cancelled(variance_errors(0.0), (UNIT, UNIT), 64) is None


def test_inputs_that_are_ill_conditioned_for_both_are_no_formulas_fault() -> None:
    assert cancelled((2e-3, 1e-3), (UNIT, UNIT), 64) is None


def test_few_results_say_nothing() -> None:
    assert cancelled((1e-2, 1e-7), (UNIT, UNIT), CANCELLED_SAMPLE - 1) is None
