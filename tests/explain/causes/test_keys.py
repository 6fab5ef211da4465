"""Random numbers that are drawn from keys: the key is the cause, whatever made it another one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict


@pytest.fixture(scope="module", autouse=True)
def quickly() -> Iterator[None]:
    """Which key is drawn from is in a program, not in what LLVM makes of it: compiling takes three quarters of the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


W = jnp.asarray(np.sin(np.arange(24, dtype=np.float32)).reshape(4, 6))
X = jnp.asarray(np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4))


def noisy(key: Any, scale: float = 1.0) -> Any:
    return jnp.tanh(X @ W) + scale * jax.random.normal(key, (3, 6))


def two(split: bool) -> Any:
    key = jax.random.key(3)
    one, other = jax.random.split(key) if split else (key, key)
    return noisy(one) * jax.random.uniform(other, (3, 6))


def confirmed(found: Diagnosis) -> list[str]:
    return [cause.code for cause in found.causes if cause.status == "confirmed" and not cause.inert]


compiled = jax.jit(noisy)
PAIRS: dict[str, tuple[Any, Any]] = {
    "another seed": (lambda: noisy(jax.random.key(3)), lambda: noisy(jax.random.key(4))),
    "folded in": (
        lambda: noisy(jax.random.fold_in(jax.random.key(3), 0)),
        lambda: noisy(jax.random.fold_in(jax.random.key(3), 1)),
    ),
    "a raw key, split once more": (
        lambda: noisy(jax.random.PRNGKey(0)),
        lambda: noisy(jax.random.split(jax.random.PRNGKey(0))[1]),
    ),
    "one key used twice": (lambda: two(True), lambda: two(False)),
    "compiled": (lambda: compiled(jax.random.key(3)), lambda: compiled(jax.random.key(4))),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_another_key_is_named_and_nothing_else(pair: tuple[Any, Any]) -> None:
    found = compare(*pair)
    assert found.verdict is Verdict.SEMANTIC
    assert confirmed(found) == ["MD002"]
    assert {e.direction for e in found.causes[0].experiments} == {"take_away", "put_in"}


def test_another_scale_of_the_same_draws_is_no_key() -> None:
    found = compare(lambda: noisy(jax.random.key(3)), lambda: noisy(jax.random.key(3), 1.1))
    assert found.verdict is Verdict.SEMANTIC
    assert "MD002" not in {cause.code for cause in found.causes}


def by_the_old_generator() -> Any:
    with jax.threefry_partitionable(False):
        return noisy(jax.random.key(3))


def test_one_key_that_gives_other_numbers_is_another_generator() -> None:
    found = compare(lambda: noisy(jax.random.key(3)), by_the_old_generator)
    assert found.verdict is Verdict.SEMANTIC
    (cause,) = [cause for cause in found.causes if cause.status in ("confirmed", "located")]
    assert (cause.code, cause.status) == ("MD002", "located")
    assert cause.remedy is not None and not cause.remedy.undoes


def test_two_runs_by_the_old_generator_are_alike() -> None:
    found = compare(by_the_old_generator, by_the_old_generator)
    assert found.verdict is Verdict.IDENTICAL and not found.causes


def dropped_out(x: Any, key: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.7, x.shape), x / 0.7, 0.0) @ W


def test_one_key_for_all_examples_is_another_function() -> None:
    keys = jax.random.split(jax.random.key(3), 3)
    found = compare(
        lambda: jax.vmap(dropped_out)(X, keys), lambda: jax.vmap(dropped_out, in_axes=(0, None))(X, jax.random.key(3))
    )
    assert found.verdict is Verdict.SEMANTIC


def test_a_key_for_each_example_is_the_same_in_a_loop() -> None:
    def looped() -> Any:
        keys = jax.random.split(jax.random.key(3), 3)
        return jnp.stack([dropped_out(x, key) for x, key in zip(X, keys, strict=True)])

    found = compare(lambda: jax.vmap(dropped_out)(X, jax.random.split(jax.random.key(3), 3)), looped)
    assert found.verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)


def test_another_key_beside_another_function_leaves_the_function_to_its_own_cause() -> None:
    def other() -> Any:
        return jnp.sin(X @ W) + jax.random.normal(jax.random.key(4), (3, 6))

    codes = [cause.code for cause in compare(lambda: noisy(jax.random.key(3)), other).causes]
    assert "MD002" in codes and any(code.startswith("FO") for code in codes)


def dropped(keep: Any) -> Any:
    hidden = jnp.tanh(X @ W)
    return (hidden if keep is None else jnp.where(keep, hidden / 0.75, 0.0)).sum(1)


def test_dropout_on_one_side_is_named_by_its_draws_and_not_as_a_step() -> None:
    found = compare(lambda: dropped(None), lambda: dropped(jax.random.bernoulli(jax.random.key(3), 0.75, (3, 6))))
    assert found.verdict is Verdict.SEMANTIC
    assert confirmed(found) == ["MD002"]


def test_a_mask_that_is_not_drawn_is_no_draw() -> None:
    keep = jnp.arange(18).reshape(3, 6) % 4 > 0
    assert "MD002" not in {cause.code for cause in compare(lambda: dropped(None), lambda: dropped(keep)).causes}
