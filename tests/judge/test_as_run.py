"""A NaN that the walk alone makes, where the candidate goes on with a value that is no counterpart, is none of a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

X = torch.linspace(0.1, 2.0, 24).reshape(4, 6)


def turned(x: torch.Tensor) -> torch.Tensor:
    """What is negative on the way."""
    return x.mul(-2.0).exp().log().mul(-0.5) * 0.3


def straight(x: torch.Tensor) -> torch.Tensor:
    """The same; given the other's first value, it takes the root of negative numbers."""
    return x.mul(2.0).sqrt().square().mul(0.5) * 0.3


def hidden(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: torch.nan_to_num(function(x))


@pytest.mark.parametrize(("reference", "candidate"), [(turned, straight), (hidden(turned), hidden(straight))])
def test_what_neither_run_holds_is_no_instability(reference: Any, candidate: Any) -> None:
    found = whydiff.compare(reference, candidate, X)
    assert any(origin.comparison.value("nan_mismatch") for origin in found.origins)  # else nothing is tested
    assert found.verdict is Verdict.ROUNDING, found.reason


def test_what_a_run_holds_is() -> None:
    found = whydiff.compare(hidden(turned), hidden(straight), X - 0.5)
    assert found.verdict is Verdict.UNSTABLE, found.reason


def test_an_op_on_whole_numbers_is_not_asked_about_others() -> None:
    """A factor and a divisor, each converted: the ops are one, and the values no counterparts."""
    jnp = pytest.importorskip("jax.numpy")
    factor, divisor, x = jnp.float16(0.5), jnp.int32(2), jnp.asarray(X.numpy())
    found = whydiff.compare(
        lambda: x * factor.astype(jnp.float32) * 0.1 * 0.3, lambda: x / divisor.astype(jnp.float32) * 0.3 * 0.1
    )
    assert found.verdict is Verdict.ROUNDING, found.reason
    assert "implementation" not in [origin.kind for origin in found.origins]
