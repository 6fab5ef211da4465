"""One program with and without ``jax.jit``: what compiling does is named, and nothing is where it is not compiling alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.field import compilers

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

Pair = tuple[Callable[[], Any], Callable[[], Any]]


def told(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes]


def horner(x: Any, last: float = 0.9) -> Any:
    total = jnp.full_like(x, 0.5)
    for c in (0.123, -0.77, 0.31, last):
        total = total * x + c
    return total


X = jnp.asarray(np.linspace(-1, 1, 500, dtype=np.float32))


def test_optimised_code_is_named_and_located_only() -> None:
    found = compare(*compilers.polynomial())
    assert found.verdict is Verdict.ROUNDING
    assert told(found) == [("CP002", "located")]
    (cause,) = found.causes
    data = next(one.data for one in cause.evidence if "component" in one.data)
    assert (data["component"], data["part"]) == ("xla", "code")
    assert cause.site == "the candidate"
    assert cause.remedy is not None
    assert "emulate" not in cause.remedy.code


def test_the_other_way_round_the_reference_is_named() -> None:
    plain, compiled = compilers.polynomial()
    (cause,) = compare(compiled, plain).causes
    assert cause.site == "the reference"


@pytest.mark.parametrize("last", [0.9000001, 0.8])
def test_another_function_under_jit_is_not_laid_to_the_compiler(last: float) -> None:
    found = compare(lambda: horner(X), lambda: jax.jit(horner, static_argnums=1)(X, last))
    assert "CP002" not in [cause.code for cause in found.causes]


def test_two_compiled_programs_are_not_held_against_their_ops() -> None:
    found = compare(lambda: jax.jit(horner)(X), lambda: jax.jit(lambda x: horner(x) * 1.01)(X))
    assert "CP002" not in [cause.code for cause in found.causes]


def test_a_fused_multiply_add_is_named_by_its_own_cause() -> None:
    assert told(compare(*compilers.cross_product())) == [("CP003", "confirmed")]


def optax_step() -> Pair:
    """A step of AdamW, its update op by op and in one program."""
    optax = pytest.importorskip("optax")
    weights = {"a": jax.random.normal(jax.random.key(0), (8, 16)), "b": jnp.zeros(16)}
    x, optimizer = jax.random.normal(jax.random.key(1), (4, 8)), optax.adamw(1e-2)
    state = optimizer.init(weights)

    def step(weights: Any, state: Any) -> Any:
        loss, slope = jax.value_and_grad(lambda w: jnp.mean(jnp.tanh(x @ w["a"] + w["b"]) ** 2))(weights)
        updates, state = optimizer.update(slope, state, weights)
        return loss, optax.apply_updates(weights, updates)

    compiled = jax.jit(step)
    return lambda: step(weights, state), lambda: compiled(weights, state)


def gemma(dtype: str) -> Pair:
    """penzai's Gemma, one layer, without and with ``jax.jit``."""
    pytest.importorskip("penzai")
    from whydiff.cli.demos import gemma as demo

    size = demo.Size(layers=1, width=64, hidden=128, heads=2, vocabulary=128)
    model, ids = demo.model(dtype, dtype, size), demo.prompts(size)[:1]
    plain, compiled = demo.program(model, False), demo.program(model, True)
    return lambda: plain(ids), lambda: compiled(ids)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "verdicts"),
    [
        (optax_step, {"rounding"}),
        (lambda: gemma("float32"), {"rounding"}),
        (lambda: gemma("bfloat16"), {"precision", "rounding"}),
    ],
    ids=["optax", "gemma in float32", "gemma in bfloat16"],
)
def test_with_and_without_jit(make: Callable[[], Pair], verdicts: set[str]) -> None:
    found = compare(*make())
    assert str(found.verdict) in {*verdicts, "identical"}, found.reason
    if found.verdict is not Verdict.IDENTICAL:
        assert found.causes[0].code in ("CP001", "CP002"), "compiling is what makes the difference"
    assert not [cause for cause in found.causes if cause.status == "confirmed"]
