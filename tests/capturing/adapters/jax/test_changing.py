"""Equations carried out differently in a replay: what they give, and causes of precision that are proven by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from whydiff.capturing.adapters import Change, for_framework
from whydiff.pipeline import compare
from whydiff.records import Verdict

DRAWN = np.random.default_rng(0)
X, W1, W2 = (jnp.asarray(DRAWN.standard_normal(size) * 0.4, jnp.float32) for size in ((6, 24), (24, 32), (32, 8)))


def replayed(target: Callable[[], Any], op: str, change: Change) -> Any:
    """What a target returns when its first call of an op is carried out differently."""
    adapter = for_framework("jax")
    trace = adapter.run(target, (), {}).capture()
    executor = adapter.executor(trace, changes={next(c.index for c in trace.calls if c.site.op == op): change})
    failed = []
    with executor.running():
        for call in trace.calls:
            failed.append(executor.execute(call))
        (event,) = next(call for call in trace.calls if call.kind == "return").reads
        assert not any(failed), failed
        return np.asarray(executor.read(event))


def narrow() -> Any:
    return (X.astype(jnp.bfloat16) @ W1.astype(jnp.bfloat16)).astype(jnp.float32) @ W2


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (Change("bfloat16"), lambda h: h.astype(jnp.bfloat16).astype(jnp.float32)),
        (Change(offset=2), lambda h: h + 2),
        (Change(writes={0: np.arange(192)[::-1].copy()}), lambda h: h.reshape(-1)[::-1].reshape(h.shape)),
        (Change(reads={0: (0, np.arange(192)[::-1].copy())}), lambda h: jnp.tanh((X @ W1)[::-1, ::-1])),
    ],
)
def test_a_call_is_carried_out_differently(change: Change, wanted: Callable[[Any], Any]) -> None:
    found = replayed(lambda: jnp.tanh(X @ W1) @ W2, "tanh", change)
    given = jnp.tanh((X @ W1).astype(change.dtype or "float32"))
    np.testing.assert_array_equal(found, np.asarray(wanted(given) @ W2))


def test_what_is_kept_in_another_dtype_is_read_rounded_by_other_calls() -> None:
    low, other = X.astype(jnp.bfloat16), W1.astype(jnp.bfloat16)
    found = replayed(narrow, "dot_general", Change("float32"))
    exact = (low.astype(jnp.float32) @ other.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, np.asarray(exact.astype(jnp.float32) @ W2))


def test_float64_is_carried_out_in_a_run_without_it() -> None:
    found = replayed(lambda: jnp.tanh(X @ W1) @ W2, "tanh", Change("float64"))
    hidden = np.tanh(np.asarray(X @ W1, np.float64)).astype(np.float32)
    np.testing.assert_allclose(found, hidden @ np.asarray(W2), rtol=1e-5, atol=1e-6)


def test_bits_have_no_other_precision() -> None:
    with pytest.raises(AssertionError, match="no other precision"):
        replayed(lambda: jax.lax.bitcast_convert_type(X, jnp.int32), "bitcast_convert_type", Change("bfloat16"))


class Net(nn.Module):
    dtype: Any
    factor: float = 1.0

    @nn.compact
    def __call__(self, x: Any) -> Any:
        x = nn.relu(nn.Dense(16, dtype=self.dtype)(x * self.factor))
        return nn.Dense(8, dtype=self.dtype)(x).astype(jnp.float32)


def test_a_net_that_computes_in_another_dtype_is_proven_both_ways() -> None:
    weights = Net(jnp.float32).init(jax.random.key(0), X)
    found = compare(lambda: Net(jnp.float32).apply(weights, X), lambda: Net(jnp.bfloat16).apply(weights, X))
    assert found.verdict is Verdict.PRECISION
    (cause,) = found.causes
    assert (cause.code, cause.status) == ("PR002", "confirmed")
    assert [experiment.after for experiment in cause.experiments] == [0.0, 0.0]


def test_a_value_that_passes_through_another_dtype_is_proven_both_ways() -> None:
    found = compare(
        lambda: jnp.tanh(X @ W1) @ W2, lambda: jnp.tanh(X @ W1).astype(jnp.float16).astype(jnp.float32) @ W2
    )
    assert [(cause.code, cause.status) for cause in found.causes] == [("PR006", "confirmed")]
    assert [experiment.after for experiment in found.causes[0].experiments] == [0.0, 0.0]


def test_another_factor_beside_a_narrower_dtype_is_both() -> None:
    found = compare(lambda: jnp.tanh(X @ W1) @ W2, lambda: jnp.tanh(narrow_first()) @ (W2 * 1.01))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed"), ("PR002", "confirmed")]


def narrow_first() -> Any:
    return (X.astype(jnp.bfloat16) @ W1.astype(jnp.bfloat16)).astype(jnp.float32)
