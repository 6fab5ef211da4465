"""A program that is traced anew says what it would do now, and is compiled again only where that is something else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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


@contextmanager
def set_otherwise() -> Iterator[None]:
    """An option of the compiler, of which the program's text says nothing."""
    before = jax.config.jax_exec_time_optimization_effort
    jax.config.update("jax_exec_time_optimization_effort", -1.0)
    try:
        yield
    finally:
        jax.config.update("jax_exec_time_optimization_effort", before)


def test_what_one_side_says_and_the_other_too_is_compiled_once_while_either_is_kept() -> None:
    def run(factor: float, x: Any, held: Any) -> Any:
        found: Any = for_framework("jax").run(jax.jit(lambda x: jnp.tanh(x * factor) + held), (x,), {})
        return found, found.capture()

    held = X * 3
    one, first = run(2.0, X, held)
    (program,) = one.compiled._said.values()
    other, second = run(2.0, X + 1, held)
    assert [*other.compiled._said.values()] == [program] and program.execute is not None
    shown = [[[e.fingerprint for e in call.writes] for call in trace.calls] for trace in (first, second)]
    assert shown[0] != shown[1]  # of its own input
    for factor, array in ((2.5, held), (2.0, X * 4)):
        assert program not in run(factor, X, array)[0].compiled._said.values()
    with set_otherwise():
        assert program not in run(2.0, X, held)[0].compiled._said.values()
    gone = weakref.ref(program)
    del one, other, first, second, program
    gc.collect()
    assert gone() is None


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
