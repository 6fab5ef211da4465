"""Rows that depend on the rows beside them, and programs that cut their own batch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
XJ, WJ = jnp.asarray(X.numpy()), jnp.sin(jnp.arange(40.0 * 8)).reshape(40, 8)


def scaled(x: Any, axis: Any) -> Any:
    return torch.tanh(x / x.abs().amax(axis, keepdim=True)) @ torch.ones(40, 3)


def whitened(x: Any, axis: Any) -> Any:
    h = jnp.tanh(x @ WJ)
    return h / jnp.sqrt((h**2).mean(axis, keepdims=True) + 1e-6)


PAIRS: dict[str, tuple[Any, Any]] = {
    "a maximum over the batch": (lambda: scaled(X[:1], (0, 1)), lambda: scaled(X, (0, 1))[:1]),
    "a mean square over the batch, in JAX": (lambda: whitened(XJ[:1], (0, 1)), lambda: whitened(XJ, (0, 1))[:1]),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_rows_that_depend_on_the_batch_are_named(pair: tuple[Any, Any]) -> None:
    found = compare(*pair)
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("FO009", "located")


def test_it_is_shown_also_where_the_reference_has_the_larger_batch() -> None:
    found = compare(lambda: scaled(X, (0, 1))[:1], lambda: scaled(X[:1], (0, 1)))
    assert (found.causes[0].code, found.causes[0].status) == ("FO009", "located")


@pytest.mark.parametrize(
    "pair",
    [(lambda: scaled(X[:1], 1), lambda: scaled(X, 1)[:1]), (lambda: whitened(XJ[:1], 1), lambda: whitened(XJ, 1)[:1])],
)
def test_rows_that_do_not_meet_are_rounding_at_most(pair: tuple[Any, Any]) -> None:
    found = compare(*pair)
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
    assert "FO009" not in {cause.code for cause in found.causes}


def test_a_program_that_takes_its_input_in_two_parts_is_no_other_size() -> None:
    def tiles(x: Any) -> Any:
        return jnp.concatenate([jnp.tanh(x[:3] @ WJ), jnp.tanh(x[3:] @ WJ)])

    assert compare(lambda: jnp.tanh(XJ @ WJ), lambda: tiles(XJ)).verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
