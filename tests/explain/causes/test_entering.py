"""Numbers that Python makes and that enter where they are used: parts of a formula, or inputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = 0.02 * torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
W = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


def norm(eps: float) -> torch.Tensor:
    variance = (X - X.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return (X - X.mean(-1, keepdim=True)) * torch.rsqrt(variance + torch.tensor(eps)) @ W


def over_the_root(eps: float) -> torch.Tensor:
    return X / (torch.tensor(eps) + X.abs().sum(-1, keepdim=True)) @ W


@pytest.mark.parametrize(("run", "other"), [(norm, 1e-5), (norm, 1e-2), (over_the_root, 1e-5)])
def test_an_epsilon_that_enters_as_a_tensor_is_no_other_input(run: object, other: float) -> None:
    """One of them may be larger than the variance: then the other shows what it is."""
    assert callable(run)
    found = compare(lambda: run(1e-6), lambda: run(other))
    assert found.verdict is Verdict.SEMANTIC
    assert [(c.code, c.status) for c in found.causes] == [("FO002", "confirmed")]
    assert f"{other:g}" in found.causes[0].says


def late(step: float) -> torch.Tensor:
    return torch.sqrt(X.square() + torch.tensor(step)) @ W


def shifted(step: float) -> torch.Tensor:
    return torch.tanh(X + torch.tensor(step)) @ W


@pytest.mark.parametrize("run", [late, shifted])
def test_a_number_that_is_added_and_keeps_nothing_from_zero_is_a_part_of_the_formula(run: object) -> None:
    assert callable(run)
    found = compare(lambda: run(0.5), lambda: run(0.75))
    assert [(c.code, c.status, c.says) for c in found.causes] == [
        ("FO008", "confirmed", "add is given 0.75 in the candidate, 0.5 in the reference")
    ]


@pytest.mark.parametrize(
    ("run", "op"),
    [
        (lambda x, number: jax.nn.softmax(x / number, -1), "div"),
        (lambda x, number: jnp.std(x, -1, ddof=int(number)), "sub"),
        (lambda x, number: jnp.where(x > 0, x, number) @ x.T, "select_n"),
    ],
)
def test_a_number_in_the_code_is_no_input_where_the_framework_converts_it_first(run: object, op: str) -> None:
    assert callable(run)
    x = jnp.asarray(X.numpy() * 50)
    found = compare(lambda: run(x, 4.0), lambda: run(x, 8.0))
    assert found.verdict is Verdict.SEMANTIC
    assert [(c.code, c.status) for c in found.causes] == [("FO008", "confirmed")]
    assert found.causes[0].says == f"{op} is given 8 in the candidate, 4 in the reference"


def test_several_numbers_that_enter_as_one_tensor_are_an_input() -> None:
    found = compare(*(lambda c=c: torch.tanh(X * torch.tensor([1.0, c] * 6)) @ W for c in (2.0, 3.0)))
    assert [(c.code, c.status) for c in found.causes] == [("IN001", "confirmed")]
