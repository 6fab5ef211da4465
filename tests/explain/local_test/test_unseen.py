"""An op whose inputs a compiled program never put into memory: what it fused with the op rounds too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.compiled import quickly

from whydiff.explain.local_test.judge import judge_outputs
from whydiff.explain.local_test.operation import Operation
from whydiff.pipeline import compare
from whydiff.records import Payload, Verdict

DRAWN = np.random.default_rng(5)
X = jnp.asarray(DRAWN.normal(size=(10, 16)), jnp.float32)
GATES = jnp.asarray(DRAWN.normal(0, 0.3, (16, 64)), jnp.float32)
INNER = jnp.asarray(DRAWN.normal(0, 0.3, (32, 16)), jnp.float32)


def gru(x: Any, one: float = 1.0) -> Any:
    h = jnp.zeros((10, 16))
    for _ in range(3):
        z = jax.nn.sigmoid(x @ GATES[:, :16] + h @ GATES[:, 16:32])
        r = jax.nn.sigmoid(x @ GATES[:, 32:48] + h @ GATES[:, 48:])
        new = jnp.tanh(x @ INNER[:16] + (r * h) @ INNER[16:])
        h = (one - z) * new + z * h
    return h


def test_what_a_fused_region_rounds_more_often_is_rounding() -> None:
    fast = quickly(gru)
    diagnosis = compare(lambda: gru(X), lambda: fast(X))
    assert diagnosis.verdict is Verdict.ROUNDING
    assert any("inside a fused region" in count.reason for count in diagnosis.not_compared)


def test_another_number_in_a_fused_region_is_not() -> None:
    fast = quickly(gru)
    diagnosis = compare(lambda: gru(X, 1.001), lambda: fast(X))
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert ("arguments", "sub") in {(origin.kind, origin.site.op) for origin in diagnosis.origins}


@pytest.mark.parametrize(
    ("calls", "error", "rounding"), [(1, 2e-7, True), (1, 3e-6, False), (40, 3e-6, True), (40, 1e-4, False)]
)
def test_the_bound_grows_with_the_ops_and_no_further(calls: int, error: float, rounding: bool) -> None:
    a, b = (np.float32(np.random.default_rng(seed).standard_normal(200)).astype(np.float64) for seed in (1, 2))
    op = Operation(
        name="add",
        reads=(a, b),
        dtypes=("float32", "float32"),
        arguments=[[{"$read": 0}, {"$read": 1}], {}],
        shape=(200,),
        dtype="float32",
        run=lambda reads, arguments: reads[0] + reads[1],
    )
    exact = np.float32(a + b)
    off = np.where(np.arange(200) % 7 == 0, error * (np.abs(a) + np.abs(b)), 0.0)
    sides = Payload(exact, "float32"), Payload(np.float32(exact + off), "float32")
    assert (judge_outputs(op, *sides, replace(op, calls=calls)).verdict is Verdict.ROUNDING) == rounding
