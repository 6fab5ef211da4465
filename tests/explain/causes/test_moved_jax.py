"""JAX: a step at another place is one cause that is moved; one that is left out stays left out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.compiled import quickly

import whydiff
from whydiff.records import Verdict

jax = pytest.importorskip("jax")
jnp = jax.numpy

DRAWN = np.random.default_rng(0)
X, W = (jnp.asarray(DRAWN.normal(size=shape), jnp.float32) for shape in ((6, 4), (4, 4)))


@cache
def stepping(first: bool, last: bool) -> Any:
    """A step with a moment; weight decay is added before it, after it, at both places or nowhere."""

    @quickly
    def step(weight: Any, moment: Any) -> Any:
        gradient = jax.grad(lambda w: jnp.mean((X @ w - 1) ** 2))(weight)
        gradient = gradient + 0.1 * weight if first else gradient
        moment = 0.9 * moment + 0.3 * gradient * gradient
        update = gradient / (jnp.sqrt(moment) + 1e-3)
        return weight - 0.01 * (update + 0.1 * weight if last else update), moment

    return step


def run(first: bool, last: bool) -> Any:
    """Two steps."""
    weight, moment = W, jnp.zeros_like(W)
    for _ in range(2):
        weight, moment = stepping(first, last)(weight, moment)
    return weight


def seen(reference: tuple[bool, bool], candidate: tuple[bool, bool]) -> Any:
    found = whydiff.compare(lambda: run(*reference), lambda: run(*candidate))
    assert found.verdict is Verdict.SEMANTIC
    acting = [cause for cause in found.causes if cause.status in ("confirmed", "located")]
    return [(cause.code, cause.status) for cause in acting], acting[0].says


@pytest.mark.parametrize("reference", [(False, True), (True, False)], ids=["last", "first"])
def test_a_decay_at_another_place_is_moved(reference: tuple[bool, bool]) -> None:
    codes, says = seen(reference, (reference[1], reference[0]))
    assert codes == [("FO008", "confirmed")]
    assert "at another place" in says


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [((False, True), (False, False)), ((True, True), (True, False)), ((True, True), (False, True))],
    ids=["nowhere", "first only", "last only"],
)
def test_a_decay_that_is_left_out_stays_left_out(reference: tuple[bool, bool], candidate: tuple[bool, bool]) -> None:
    codes, says = seen(reference, candidate)
    assert codes == [("FO007", "confirmed")]
    assert "the candidate does not" in says


def test_what_a_mask_is_made_of_replaces_no_value_that_was_carried() -> None:
    ids = jnp.asarray([[5, 3, 2, 7], [1, 6, 0, 0], [4, 0, 0, 0]])

    def pooled(masked: bool) -> Any:
        h = jnp.tanh(X[ids % 6] @ W)
        return jnp.mean(h, 1, where=(ids != 0)[..., None]) if masked else jnp.mean(h, 1)

    found = whydiff.compare(lambda: pooled(True), lambda: pooled(False))
    assert found.verdict is Verdict.SEMANTIC
    assert found.causes
    assert "ST007" not in {cause.code for cause in found.causes}
