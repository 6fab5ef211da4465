"""Overflow in a program of an adapter without a range audit: found by replay, and a pole or a mask is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = jnp.array([[1.0, 120.0, 3.0], [2.0, 0.5, 90.0]])
SMALL = X / 100


def by_the_largest(x: Any) -> Any:
    return jax.nn.logsumexp(x, axis=-1)


def naive(x: Any) -> Any:
    return jnp.log(jnp.exp(x).sum(-1))


def half_squares(x: Any) -> Any:
    half = x.astype(jnp.float16) * 10
    return (half * half).sum().astype(jnp.float32)


def squares(x: Any) -> Any:
    return ((x * 10) * (x * 10)).sum()


@pytest.mark.parametrize(
    ("reference", "candidate", "op", "fits", "status"),
    [(by_the_largest, naive, "exp", "float64", "located"), (squares, half_squares, "mul", "bfloat16", "confirmed")],
)
def test_an_overflow_starts_where_finite_numbers_become_infinite(
    reference: Callable[[Any], Any], candidate: Callable[[Any], Any], op: str, fits: str, status: str
) -> None:
    diagnosis = compare(lambda: reference(X), lambda: candidate(X))
    assert diagnosis.verdict is Verdict.UNSTABLE
    (cause,) = [cause for cause in diagnosis.causes if cause.code == "OV001"]
    assert cause.status == status
    assert f":{op}#" in cause.site
    assert fits in cause.remedy.text


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [
        (lambda x: jnp.log(x - 0.5 + 1e-9), lambda x: jnp.log(x - 0.5)),
        (lambda x: jnp.where(x > 100, -1e9, x), lambda x: jnp.where(x > 100, -jnp.inf, x)),
        (lambda x: x / 2, lambda x: x * jnp.full((), jnp.inf)),
    ],
)
def test_a_pole_a_mask_and_an_infinite_constant_are_no_overflow(
    reference: Callable[[Any], Any], candidate: Callable[[Any], Any]
) -> None:
    diagnosis = compare(lambda: reference(X), lambda: candidate(X))
    assert any(comparison.value("inf_mismatch") for _, comparison in diagnosis.outputs)
    assert not [cause for cause in diagnosis.causes if cause.code.startswith("OV")]


def test_numbers_in_range_raise_nothing() -> None:
    diagnosis = compare(lambda: by_the_largest(SMALL), lambda: naive(SMALL))
    assert not [cause for cause in diagnosis.causes if cause.code.startswith("OV")]
