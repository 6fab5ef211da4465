"""A program that is traced anew says what it would do now, and is compiled again only where that is something else."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.tapped import Plan, evaluate

X = jnp.linspace(0.1, 1.0, 6)


def test_what_says_the_same_is_not_compiled_again_and_another_number_or_array_is() -> None:
    held: dict[str, Any] = {"factor": 2.0, "array": X * 3}
    run: Any = for_framework("jax").run(jax.jit(lambda x: jnp.tanh(x * held["factor"]) + held["array"]), (X,), {})
    calls = run.capture().calls
    known = run.compiled._said
    assert len(known) == 1

    def anew() -> tuple[list[Any], list[Any]]:
        found = run.traced_anew()
        return [call.arguments for call in found], [e.fingerprint for call in found for e in call.writes]

    same = [call.arguments for call in calls], [e.fingerprint for call in calls for e in call.writes]
    assert anew() == same and len(known) == 1
    held["factor"] = 2.5
    assert anew()[0] != same[0] and len(known) == 2
    held |= {"factor": 2.0, "array": X * 4}
    assert anew()[0] == same[0] and anew()[1] != same[1] and len(known) == 3


@pytest.mark.parametrize("context", [nullcontext, internals.retraced, internals.traced_anew])
def test_the_mark_by_which_functions_are_told_apart_is_not_compiled(context: Any) -> None:
    def text(function: Any) -> str:
        return jax.jit(function).lower(X).as_text()

    plain = text(lambda x: jnp.tanh(x) * 2)
    with context():
        assert (text(lambda x: jnp.tanh(x) * 2) == plain) == (context is nullcontext)
        traced = jax.make_jaxpr(lambda x: jnp.tanh(x) * 2)(X)
        with internals.evaluating():
            assert text(lambda x: jnp.tanh(x) * 2) == plain
            assert text(lambda x: evaluate(traced.jaxpr, traced.consts, [x], Plan())[0][0]) == plain
    assert text(lambda x: jnp.tanh(x) * 2) == plain
