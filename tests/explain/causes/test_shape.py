"""The code that SH001 gives is code that works, in either framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from whydiff.explain.causes._shape import in_pieces
from whydiff.explain.causes.sh003 import _remedy
from whydiff.pipeline import compare


def test_a_jax_user_gets_jax() -> None:
    jax = pytest.importorskip("jax")
    weight, x = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in enumerate(((1024, 256), (64, 1024))))
    plain = jax.jit(lambda rows: rows @ weight)
    whole = np.asarray(plain(x))
    few = [n for n in (1, 7) if not np.array_equal(np.asarray(plain(x[:n])), whole[:n])]
    if not few:
        pytest.skip("this processor's products do not depend on the batch at these sizes")
    found = [c for c in compare(lambda rows: plain(rows[: few[0]]), plain, x).causes if c.code == "SH001"]
    assert [cause.status for cause in found] == ["confirmed"]
    assert found[0].remedy is not None
    assert "torch" not in found[0].remedy.text + found[0].remedy.code
    assert "whydiff.batch_invariant" not in found[0].remedy.code
    names: dict[str, Any] = {"jax": jax, "f": lambda row: row @ weight}
    exec(found[0].remedy.code, names)
    in_batch = jax.jit(names["in_pieces"])
    for rows in (1, 7, 33):
        np.testing.assert_array_equal(in_batch(x)[:rows], in_batch(x[:rows]))


def test_a_torch_user_gets_torch() -> None:
    remedy = in_pieces("torch", ("mm",), 16, "batch")
    assert "whydiff.batch_invariant(model, ops=('mm',), rows=16)" in remedy.code
    assert "jax" not in remedy.text
    assert _remedy("jax", "contiguous", ("sum",), None).code == ""
