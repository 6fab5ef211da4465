"""`compare` points to `port` where the two sides are one model written twice, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import whydiff

X = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def model() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16, bias=False), torch.nn.ReLU(), torch.nn.Linear(16, 3, bias=False))


def pointed(reference: Callable[..., Any], candidate: Callable[..., Any], *, to: str) -> bool:
    with torch.no_grad():
        found = whydiff.compare(reference, candidate, X)
    return any("`whydiff port`" in note and to in note for note in found.notes)


def torch_side(made: Any) -> Callable[..., Any]:
    return lambda x: made(torch.from_numpy(x))


@pytest.mark.parametrize(("factor", "points"), [(1.01, True), (1.0, False)])
def test_two_frameworks_are_a_port_where_they_differ(factor: float, points: bool) -> None:
    """No weight is the same bytes (each is stored transposed), and no call is left without a counterpart."""
    jnp = pytest.importorskip("jax.numpy")
    ours = torch.nn.Linear(8, 3, bias=False)
    torch.nn.init.constant_(ours.weight, 0.5)
    ours.weight.data[:, 1:] = 0.0  # one product of each sum: no order of a sum makes a difference
    weight = jnp.asarray(ours.weight.detach().numpy().T * np.float32(factor))
    assert pointed(torch_side(ours), lambda x: jnp.asarray(x) @ weight, to="torch, the other in jax") is points


def test_a_model_written_anew_in_one_framework_is_a_port() -> None:
    made = model()
    first, last = made[0].weight, made[2].weight

    def anew(x: Any) -> Any:
        h = (torch.from_numpy(x)[:, None, :] * first[None]).sum(-1)
        h = torch.where(h > 0, h, h * 0.01)
        return (h[:, None, :] * last[None]).sum(-1)

    assert pointed(torch_side(made), anew, to="most calls of the two programs have no counterpart")


def test_one_program_with_another_number_is_none() -> None:
    made = model()
    assert not pointed(torch_side(made), lambda x: made(torch.from_numpy(x)) * 1.01, to="")
