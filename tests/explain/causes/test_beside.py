"""Rows that depend on the rows beside them, and programs that cut their own batch."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = torch.randn(6, 40, generator=torch.Generator().manual_seed(3))
XJ, WJ = jnp.asarray(X.numpy()), jnp.asarray(torch.arange(40.0 * 8).sin().reshape(40, 8).numpy())


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


def test_the_op_that_takes_something_over_all_rows_is_named_not_the_one_that_reads_it() -> None:
    def shifted(x: Any) -> Any:
        h = torch.nn.functional.layer_norm(x, (40,))
        return h - h.amax(0).clamp(min=0)

    found = compare(lambda: shifted(X[:2]), lambda: shifted(X)[:2])
    assert (found.causes[0].code, found.causes[0].site) == ("FO009", ":amax#0")

    def both(x: Any) -> Any:  # a total that reaches no row is not why a row moves
        return torch.nn.functional.batch_norm(torch.tanh(x), None, None, training=True), x.abs().mean()

    found = compare(lambda: both(X[:2]), lambda: both(X))
    assert (found.causes[0].code, found.causes[0].site) == ("FO009", ":native_batch_norm#0")


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


WIDE = torch.sin(torch.arange(40.0 * 8)).reshape(40, 8)
CUT = torch.cos(torch.arange(8.0 * 3)).reshape(8, 3)
FURTHER = torch.cat([X[:2], X.mean(0, keepdim=True) + 1])


def centred(x: Any) -> Any:
    h = torch.tanh(x @ WIDE + 0.5)
    return (h - h.mean(0)) @ CUT


def centred_in_jax(x: Any) -> Any:
    h = jnp.tanh(x @ WJ + 0.5)
    return h - h.mean(0)


FILLED: dict[str, tuple[Any, Any]] = {
    "zeros, in JAX": (lambda: centred_in_jax(XJ), lambda: centred_in_jax(jnp.pad(XJ, ((0, 3), (0, 0))))[:6]),
    "zeros before the rows": (lambda: centred(X), lambda: centred(torch.nn.functional.pad(X, (0, 0, 2, 0)))[2:]),
    "the last row again": (lambda: centred(X), lambda: centred(torch.cat([X, X[-1:].expand(3, -1)]))[:6]),
    "on the reference's side": (lambda: centred(torch.cat([X, X[:3]]))[:6], lambda: centred(X)),
}


@pytest.mark.parametrize("pair", FILLED.values(), ids=FILLED.keys())
def test_what_fills_a_batch_up_and_enters_its_statistics_is_named(pair: tuple[Any, Any]) -> None:
    found = compare(*pair)
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("FO009", "located")
    assert "fills the batch up from 6 to" in found.causes[0].says


@pytest.mark.parametrize(
    "pair",
    [
        (lambda: torch.tanh(X @ WIDE) @ CUT, lambda: torch.tanh(torch.cat([X, 0 * X[:2]]) @ WIDE)[:6] @ CUT * 1.5),
        (lambda: centred(X[:2]), lambda: centred(FURTHER)[:2]),
    ],
    ids=["the filling reaches no row", "the row beside them tells something"],
)
def test_a_batch_that_is_filled_up_is_not_named_where_that_is_not_shown(pair: tuple[Any, Any]) -> None:
    found = compare(*pair)
    assert found.verdict is Verdict.SEMANTIC
    assert not [cause for cause in found.causes if "fills the batch up" in cause.says]


def test_a_whole_batch_beside_itself_fills_it_up_with_nothing_new() -> None:
    torch.manual_seed(0)
    norm, rows = torch.nn.BatchNorm1d(10, track_running_stats=False), torch.randn(6, 10)
    copied = compare(norm, lambda x: norm(torch.cat([x, x]))[:6], rows)
    assert copied.verdict in (Verdict.IDENTICAL, Verdict.ROUNDING) and not [
        c for c in copied.causes if c.code == "FO009"
    ]
    zeros = compare(norm, lambda x: norm(torch.cat([x, x.new_zeros(2, 10)]))[:6], rows)
    assert zeros.verdict is Verdict.SEMANTIC and [c.status for c in zeros.causes if c.code == "FO009"] == ["located"]
