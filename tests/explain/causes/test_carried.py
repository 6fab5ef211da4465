"""Values that a run carries from round to round, and loses on one side: the answers were fixed before the first run."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import whydiff

_ROWS = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)
_FIRST = np.random.default_rng(4).standard_normal(6).astype(np.float32)


def momentum(lost: int) -> Any:
    """Descent with a velocity by hand, which begins at zero again in one round."""
    rows, weight, velocity, fresh = torch.tensor(_ROWS), torch.tensor(_FIRST), torch.zeros(6), torch.zeros(6)
    for number in range(5):
        if number == lost:
            velocity = fresh
        velocity = 0.9 * velocity + rows.T @ torch.tanh(rows @ weight)
        weight = weight - 0.05 * velocity
    return weight


def baseline(lost: int) -> Any:
    """A running mean of rewards in JAX, for which the newest reward is taken in one round."""
    rows, mean, total = jnp.asarray(_ROWS), jnp.asarray(_FIRST), jnp.zeros(6)
    for number in range(5):
        reward = jnp.tanh(rows[number] @ rows.T @ rows)
        mean = 0.75 * (reward if number == lost else mean) + 0.25 * reward
        total = total + jnp.sin(reward - mean)
    return total


@pytest.mark.parametrize("program", [momentum, baseline])
@pytest.mark.parametrize("sides", [(-1, 3), (3, -1)])
def test_a_carried_value_that_is_lost_is_named(program: Any, sides: tuple[int, int]) -> None:
    found = whydiff.compare(lambda: program(sides[0]), lambda: program(sides[1]))
    assert str(found.verdict) == "semantic", found.reason
    top = found.causes[0]
    assert (top.code, top.status) in {("ST007", "confirmed"), ("ST007", "located")}, found.causes
    loser = "reference" if sides[0] > 0 else "candidate"
    assert top.evidence[0].data["side"] == loser


def test_a_value_that_is_put_back_is_proven_both_ways() -> None:
    found = whydiff.compare(lambda: momentum(-1), lambda: momentum(3))
    assert found.causes[0].status == "confirmed"
    assert {experiment.direction for experiment in found.causes[0].experiments} == {"take_away", "put_in"}
