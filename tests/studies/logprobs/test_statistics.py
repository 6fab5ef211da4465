"""The statistics against what they estimate, computed exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import whydiff


@settings(max_examples=10)  # of 20,000 tokens each
@given(st.integers(0, 10_000), st.floats(0.05, 0.6))
def test_the_estimators_mean_the_kl_divergence(seed: int, size: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal(32)
    p = np.exp(logits - np.log(np.exp(logits).sum()))
    other = logits + size * random.standard_normal(32)
    q = np.exp(other - np.log(np.exp(other).sum()))
    tokens = random.choice(32, 20_000, p=p)
    found = whydiff.compare_logprobs(
        {"token_ids": [tokens.tolist()], "logprobs": [np.log(p[tokens])]},
        {"token_ids": [tokens.tolist()], "logprobs": [np.log(q[tokens])]},
    ).statistics
    exact = float((p * np.log(p / q)).sum())
    ratio = q / p
    for value, per_token in ((found.all.k1, -np.log(ratio)), (found.all.k3, ratio - 1 - np.log(ratio))):
        error = float(np.sqrt((p * (per_token - exact) ** 2).sum() / 20_000))
        assert value == pytest.approx(exact, abs=5 * error + 1e-12)
    weights = 1 / (p * ratio**2).sum()
    assert found.effective == pytest.approx(weights, rel=0.1)
    low, high = found.bounds
    assert found.all.clipped == pytest.approx(float(p[(ratio < low) | (ratio > high)].sum()), abs=0.03)


def test_perplexity_bins_and_entropy() -> None:
    values = [-1.0] * 50 + [-2.0] * 50
    side = {"token_ids": [list(range(100))], "logprobs": [values], "entropy": [[float(n) for n in range(100)]]}
    other = {"token_ids": [list(range(100))], "logprobs": [[v - 0.1 * (n >= 50) for n, v in enumerate(values)]]}
    found = whydiff.compare_logprobs(side, other).statistics
    assert found.perplexity == pytest.approx((np.exp(1.5), np.exp(1.55)))
    assert found.perplexity_gap == pytest.approx(np.exp(0.05) - 1)
    for bins in (found.by_position, found.by_entropy):
        assert sum(one.ratios.tokens for one in bins) == 100
        assert bins[0].ratios.mean_abs == 0
        assert bins[-1].ratios.mean == pytest.approx(-0.1)
    assert found.infinite == 0


def test_every_number_of_the_report_is_strict_json(tmp_path: object) -> None:
    side = {"token_ids": [[1, 2]], "logprobs": [[-1.0, float("-inf")]]}
    found = whydiff.compare_logprobs(side, {"token_ids": [[1, 2]], "logprobs": [[-1.0, -2.0]]})
    document = found.to_dict()
    assert {one["test"] for one in document["results"]} >= {"temperature", "shift", "noise"}
    assert document["statistics"]["infinite"] == 1
    assert found.verdict != "identical"
