"""The sweep of a JAX callable: ops, kernels and remedies in JAX's own words."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import whydiff
from whydiff.records import Verdict


def test_a_product_that_depends_on_the_batch_is_named_and_cured_in_jax() -> None:
    weight = jax.random.normal(jax.random.key(0), (512, 256))
    rows = jax.random.normal(jax.random.key(1), (16, 512))
    product = jax.jit(jax.vmap(lambda row: jnp.tanh(row @ weight)))
    study = whydiff.sweep(product, (rows,), batch="1,2,16")
    if study.verdict is Verdict.IDENTICAL:
        pytest.skip("this backend's kernels do not depend on the batch here")
    assert study.verdict is Verdict.ROUNDING
    assert [cause.code for cause in study.causes] == ["SH001"]
    found = [one for cell in study.cells for one in cell.found]
    assert {one.op for one in found} == {"dot_general"}
    assert all(one.kernels[0] and one.kernels[1] for one in found)  # what XLA chose at either size
    pieces = [tried for tried in study.remedies if tried.name.startswith("fixed-row-chunks")]
    assert any(tried.works for tried in pieces)
    assert all("jax.lax.map" in tried.code and "batch_invariant" not in tried.code for tried in pieces)
