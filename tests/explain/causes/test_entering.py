"""Numbers that Python makes and that enter where they are used: parts of a formula, or inputs."""

from __future__ import annotations

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
def test_a_number_that_is_added_and_keeps_nothing_from_zero_is_an_input(run: object) -> None:
    assert callable(run)
    found = compare(lambda: run(0.5), lambda: run(0.75))
    assert [(c.code, c.status) for c in found.causes] == [("IN001", "confirmed")]
