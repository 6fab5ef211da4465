"""What a JAX program compiles can be carried out equation by equation, or compiled with less of XLA."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from whydiff.capturing.adapters import Way, for_target
from whydiff.capturing.adapters.jax.climbing import LAST, PASSES, REWRITTEN, Climbing
from whydiff.capturing.adapters.jax.run import Run

X = jnp.asarray(np.linspace(-1, 1, 500, dtype=np.float32))


def horner(x: Any) -> Any:
    total = jnp.full_like(x, 0.5)
    for c in (0.123, -0.77, 0.31, 0.9):
        total = total * x + c
    return total


def run_of(program: Any) -> Run:
    run = for_target(program).run(program, (), {})
    assert isinstance(run, Run)
    return run


def given(run: Run, way: Way) -> Any:
    found = run.compiled_as(way)
    assert found.outputs is not None, found.failed
    assert found.outputs[0].payload is not None
    return np.asarray(found.outputs[0].payload.bits)


def test_a_program_that_jit_compiles_has_rungs_and_another_has_none() -> None:
    compiled = jax.jit(horner)
    assert [rung.name for rung in run_of(lambda: compiled(X)).rungs()][-1] == LAST
    assert run_of(lambda: jnp.sin(X)).rungs() == ()


def test_equation_by_equation_it_gives_what_it_gives_without_jit() -> None:
    compiled = jax.jit(jax.jit(horner))
    run = run_of(lambda: compiled(X))
    assert (given(run, Way("eager")) == np.asarray(horner(X))).all()
    assert (given(run, Way(LAST)) == np.asarray(compiled(X))).all()
    assert (given(run, Way(REWRITTEN)) == given(run, Way("eager"))).all()


def test_passes_can_be_left_out_from_one_on_or_one_alone() -> None:
    assert Climbing(Way(LAST, ("passes",), 3))._options()["xla_disable_hlo_passes"].split(",") == list(PASSES[3:])
    assert Climbing(Way(LAST, ("passes",), only="fusion"))._options() == {"xla_disable_hlo_passes": "fusion"}
    assert Climbing(Way(LAST, ("passes",), 1 << 30))._options() == {}
    assert Climbing(Way(LAST, ("passes",))).done == PASSES


def test_products_are_asked_for_at_the_highest_precision_where_nothing_else_is_asked_for() -> None:
    x = jnp.ones((2, 2))
    compiled = jax.jit(lambda x: jnp.tanh(x @ x))
    run = run_of(lambda: compiled(x))
    assert (given(run, Way(LAST, ("matmul-precision",))) == np.asarray(compiled(x))).all()


def test_loops_stay_and_what_raises_is_said() -> None:
    def looped(x: Any) -> Any:
        return jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) * 1.5, x) + 1

    compiled = jax.jit(looped, compiler_options={"xla_allow_excess_precision": False})
    run = run_of(lambda: compiled(X))
    assert (given(run, Way(LAST)) == np.asarray(compiled(X))).all()

    calls = [0]

    def raising() -> Any:
        calls[0] += 1
        if calls[0] > 1:
            raise RuntimeError("no second time")
        return jnp.sin(X)

    again = run_of(raising)
    again.anchor()
    assert "no second time" in again.compiled_as(Way(LAST)).failed


def test_the_programs_own_compiled_code_stays() -> None:
    traced = [0]

    def counted(x: Any) -> Any:
        traced[0] += 1
        return horner(x)

    compiled = jax.jit(counted)
    before = compiled(X)
    run = run_of(lambda: compiled(X))
    for way in (Way("eager"), Way(LAST, ("code",)), Way(LAST, ("passes",))):
        run.compiled_as(way)
    traced[0] = 0
    assert (compiled(X) == before).all()
    assert traced == [0]
