"""Values that a run carries over, and that were not restored."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import torch

from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

ROWS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
START = torch.randn(6, generator=torch.Generator().manual_seed(1))
JAX_ROWS = jnp.asarray(ROWS.numpy())


def averaged(restored: bool) -> Any:
    """A moving average beside the values; a checkpoint of the values alone is loaded into it on the way."""
    values, average = START.clone(), START.clone()
    for number, row in enumerate(ROWS):
        if not restored and number == 3:
            average.copy_(START)
        values = values + 0.1 * torch.tanh(row)
        average.mul_(0.8).add_(values, alpha=0.2)
    return average


def moments(restored: bool) -> Any:
    weight, moment = jnp.ones(6), jnp.zeros(6)
    for number, row in enumerate(JAX_ROWS):
        if not restored and number == 3:
            moment = jnp.zeros(6)
        moment = 0.9 * moment + row
        weight = weight - 0.1 * moment
    return weight


def named(found: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in found.causes if not cause.inert]


def test_an_average_that_begins_anew_is_named() -> None:
    found = compare(lambda: averaged(True), lambda: averaged(False))
    assert found.verdict is Verdict.SEMANTIC
    assert named(found) == [("ST007", "located")]
    assert found.causes[0].says.startswith("the candidate goes on with values it did not compute")


def test_moments_that_are_zero_again_are_named_on_either_side() -> None:
    assert named(compare(lambda: moments(True), lambda: moments(False)))[0] == ("ST007", "located")
    found = compare(lambda: moments(False), lambda: moments(True))
    assert named(found)[0] == ("ST007", "located")
    assert found.causes[0].says.startswith("the reference goes on with values it did not compute")


def test_everything_restored_is_nothing() -> None:
    assert compare(lambda: averaged(True), lambda: averaged(True)).verdict is Verdict.IDENTICAL
