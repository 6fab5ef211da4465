"""Programs that JAX traced before a Python value changed that they read, and such as only look like it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.compiled import quickly

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

X, W = jnp.sin(jnp.arange(24.0)).reshape(3, 8), jnp.cos(jnp.arange(32.0)).reshape(8, 4)
Body = Callable[[Any, dict[str, Any]], Any]


def scaled(x: Any, held: dict[str, Any]) -> Any:
    return jnp.tanh(x @ held["w"]) * held["scale"]


def switched(x: Any, held: dict[str, Any]) -> Any:
    return (jnp.tanh(x @ held["w"]) if held["scale"] > 0.7 else x @ held["w"]) * 2


def summed(x: Any, held: dict[str, Any]) -> Any:
    return (x[:, :3] @ held["w"][:3, :3]).sum(0 if held["scale"] > 0.7 else 1)


def old_and_new(body: Body, **change: Any) -> tuple[Any, Any, Any]:
    """The function, compiled before its dictionary changes, compiled afterwards, and as it is."""
    held: dict[str, Any] = {"scale": 1.0, "w": W}
    old = quickly(lambda x: body(x, held))
    old(X)
    held.update(change)
    return old, quickly(lambda x: body(x, held)), lambda x: body(x, held)


def causes(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes]


@pytest.mark.parametrize(
    ("shift", "eager", "turned"),
    [(0.0, False, False), (0.0, True, False), (0.0, True, True), (0.25, False, True), (0.25, True, False)],
)
def test_a_number_of_before_is_proven_both_ways(shift: float, eager: bool, turned: bool) -> None:
    old, new, plain = old_and_new(scaled, scale=0.5, **({"w": W + shift} if shift else {}))
    pair = (plain if eager else new, old)
    before = np.asarray(old(X)).tobytes()
    found = compare(*(pair[::-1] if turned else pair), X)
    assert causes(found) == [("CP004", "confirmed")], [c.reason for c in found.causes]
    assert {experiment.direction for experiment in found.causes[0].experiments} == {"take_away", "put_in"}
    assert "(1 then, 0.5 now)" in found.causes[0].says
    assert np.asarray(old(X)).tobytes() == before, "the user's compiled version stays"


@pytest.mark.parametrize("body", [switched, summed])
def test_of_other_ops_it_is_said_where_and_nothing_else_is_blamed(body: Body) -> None:
    old, new, _ = old_and_new(body, scale=0.5)
    found = compare(new, old, X)
    assert (causes(found), found.verdict) == ([("CP004", "located")], Verdict.SEMANTIC)


def test_a_number_of_before_beside_another_factor_in_the_code() -> None:
    old, _, _ = old_and_new(scaled, scale=0.5)
    found = compare(quickly(lambda x: jnp.tanh(x @ W * 1.5) * 0.5), old, X)
    assert {("CP004", "confirmed"), ("FO003", "confirmed")} >= {*causes(found)} and len(found.causes) == 2


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_the_other_side_has_neither_the_number_of_before_nor_that_of_now(eager: bool, turned: bool) -> None:
    old, _, _ = old_and_new(scaled, scale=0.5)
    third = (lambda x: x) if eager else quickly
    pair = (third(lambda x: jnp.tanh(x @ W) * 0.25), old)
    found = compare(*(pair[::-1] if turned else pair), X)
    assert [code for code, _ in causes(found)] == ["FO003"] and found.causes[0].status in ("located", "confirmed")


def test_where_the_number_of_now_is_not_enough_the_other_causes_are_asked() -> None:
    old, _, _ = old_and_new(lambda x, held: jax.lax.clamp(-0.9, x @ held["w"], held["scale"]), scale=0.5)
    found = compare(quickly(lambda x: jax.lax.clamp(-0.4, x @ W, 0.5)), old, X)
    assert causes(found)[0] == ("FO008", "located")
    assert "confirmed" not in dict(causes(found)).values()


def test_a_number_that_the_code_has_whenever_it_is_traced_is_no_stale_one() -> None:
    def drawn(x: Any) -> Any:
        return jnp.tanh(x @ W) * float(generator.random())

    generator = np.random.default_rng(0)
    other, once = quickly(lambda x: jnp.tanh(x @ W) * 2.0), quickly(drawn)
    once(X)
    for candidate in (other, once):
        found = compare(quickly(lambda x: jnp.tanh(x @ W) * 0.25), candidate, X)
        assert causes(found) == [("FO003", "confirmed")]


def test_modules_are_traced_again_while_they_are_observed_and_their_answer_is_the_same() -> None:
    nnx = pytest.importorskip("flax.nnx")
    held = {"scale": 1.0}

    class Scaled(nnx.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.linear = nnx.Linear(8, 4, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return jnp.tanh(self.linear(x)) * held["scale"]

    model = Scaled()
    old = nnx.jit(lambda model, x: model(x))
    old(model, X)
    held["scale"] = 0.5
    found = compare(lambda: model(X), lambda: old(model, X))
    assert (causes(found), found.verdict) == ([("CP004", "located")], Verdict.SEMANTIC)
