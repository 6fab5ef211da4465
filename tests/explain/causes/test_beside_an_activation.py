"""Activations that JAX spells out in ops of its own, with another mistake beside them: each is proven, and nothing else."""

from __future__ import annotations

import pytest
from tests.compiled import quickly

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import whydiff  # noqa: E402

KEYS = jax.random.split(jax.random.PRNGKey(0), 3)
X, W, V = (jax.random.normal(key, (8, 8)) for key in KEYS)


def run(x: jax.Array, eps: float = 1e-5, approximate: bool = False, factor: float = 1.0) -> jax.Array:
    normed = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + eps)
    h = jax.nn.gelu(normed @ W, approximate=approximate)
    return (h if factor == 1.0 else h * factor) @ V


@pytest.mark.parametrize(
    ("other", "codes"),
    [
        ({}, {"FO001"}),
        ({"eps": 1e-3}, {"FO001", "FO002"}),
        ({"factor": 2.5}, {"FO001", "FO003"}),
        ({"eps": 1e-3, "factor": 2.5}, {"FO001", "FO002", "FO003"}),
    ],
    ids=["alone", "epsilon", "factor", "both"],
)
def test_every_mistake_is_proven_and_no_other(other: dict[str, float], codes: set[str]) -> None:
    found = whydiff.compare(quickly(run), quickly(lambda x: run(x, approximate=True, **other)), X)
    assert {(cause.code, cause.status) for cause in found.causes} == {(code, "confirmed") for code in codes}
    assert all(len(cause.experiments) == 2 for cause in found.causes)


def test_a_factor_that_was_rounded_before_it_was_compiled_in_is_precision() -> None:
    found = whydiff.compare(
        quickly(lambda x: (x * 0.1234567) @ W),
        quickly(lambda x: (x * jnp.bfloat16(0.1234567).astype(jnp.float32)) @ W),
        X,
    )
    assert [(cause.code, cause.status) for cause in found.causes] == [("PR006", "confirmed")]


@pytest.mark.parametrize(("ours", "theirs"), [(25.04, 25.0), (0.501, 0.5), (6.6332496, 6.5)])
def test_a_number_that_somebody_wrote_is_another_factor(ours: float, theirs: float) -> None:
    found = whydiff.compare(quickly(lambda x: (x * ours) @ W), quickly(lambda x: (x * theirs) @ W), X)
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed")]
