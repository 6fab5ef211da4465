"""A reference that is zero everywhere has no size: what differs from it is still named. Fixed before the first run."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import whydiff

_ROWS = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)


def filled_in_torch(value: float) -> Any:
    """A table that is filled and then written over in part."""
    table = torch.full((5, 4), value)
    table[:3] = torch.tensor(_ROWS).tanh()
    return table


def filled_in_jax(value: float) -> Any:
    """The same, functionally."""
    return jnp.full((5, 4), value).at[1:4].set(jnp.tanh(jnp.asarray(_ROWS)))


@pytest.mark.parametrize("program", [filled_in_torch, filled_in_jax])
@pytest.mark.parametrize("values", [(0.0, 2.5), (2.5, 0.0)])
def test_another_value_that_fills_what_nobody_writes_is_named(program: Any, values: tuple[float, float]) -> None:
    found = whydiff.compare(lambda: program(values[0]), lambda: program(values[1]))
    assert str(found.verdict) == "semantic", found.reason
    assert found.causes[0].code[:2] in ("FO", "IN"), found.causes
    assert found.causes[0].status in ("confirmed", "located")


def test_zeros_that_are_computed_are_no_formula_of_their_own() -> None:
    x = torch.tensor(_ROWS)

    def gated(gate: Any) -> Any:
        return torch.tanh(x) * torch.relu(gate) + x

    found = whydiff.compare(lambda: gated(-torch.ones(4)), lambda: gated(torch.ones(4) / 2))
    assert not [one for one in found.causes if one.code == "FO008" and one.status == "confirmed"], found.causes


def test_what_an_equal_part_is_written_into_is_compared_whole() -> None:
    found = whydiff.compare(lambda: filled_in_torch(0.0), lambda: filled_in_torch(1.0))
    assert "reach" not in found.reason
    assert [comparison.status for _, comparison in found.outputs] == ["differs"]
