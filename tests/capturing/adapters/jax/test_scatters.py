"""Scattered updates at another precision: the same updates in another order, in a narrower dtype, at another place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import whydiff

_DRAWN = np.random.default_rng(5)
_ROWS = jnp.asarray(_DRAWN.uniform(0.5, 1.5, (300, 3)).astype(np.float32))
_WHERE = jnp.asarray(_DRAWN.integers(0, 6, 300))
_ORDER = jnp.asarray(_DRAWN.permutation(300))


def _added(rows: Any, where: Any, dtype: Any = jnp.float32) -> Any:
    return jnp.log(jax.ops.segment_sum(rows.astype(dtype), where, 6).astype(jnp.float32))


def _multiplied(rows: Any, where: Any) -> Any:
    return jnp.ones((6, 3)).at[where].multiply(rows**0.1)


CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "added in another order": (
        lambda: _added(_ROWS, _WHERE),
        lambda: _added(_ROWS[_ORDER], _WHERE[_ORDER]),
        "rounding",
    ),
    "multiplied in another order": (
        lambda: _multiplied(_ROWS, _WHERE),
        lambda: _multiplied(_ROWS[_ORDER], _WHERE[_ORDER]),
        "rounding",
    ),
    "kept in bfloat16": (lambda: _added(_ROWS, _WHERE), lambda: _added(_ROWS, _WHERE, jnp.bfloat16), "precision"),
    "one at another place": (
        lambda: _added(_ROWS, _WHERE),
        lambda: _added(_ROWS, _WHERE.at[7].set((_WHERE[7] + 1) % 6)),
        "semantic",
    ),
    "another joining": (
        lambda: jnp.zeros((6, 3)).at[_WHERE].add(_ROWS),
        lambda: jnp.zeros((6, 3)).at[_WHERE].max(_ROWS),
        "semantic",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_scatters_are_carried_out_in_float64(name: str) -> None:
    reference, candidate, verdict = CASES[name]
    found = whydiff.compare(reference, candidate)
    assert str(found.verdict) == verdict, found.reason
    assert not [count for count in found.not_compared if count.code == "not lifted"]
