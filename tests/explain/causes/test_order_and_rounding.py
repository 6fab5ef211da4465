"""An axis in another order, with a last bit of rounding beside it: the order is proven all the same."""

from __future__ import annotations

import torch

import whydiff
from whydiff.records import Verdict

G = torch.Generator().manual_seed(0)
X, W = (torch.randn(*shape, generator=G) for shape in ((999, 64), (64, 64)))
linear = torch.nn.functional.linear


def whole() -> torch.Tensor:
    return linear(X, W).tanh().sum(0)


def apart(weight: torch.Tensor) -> torch.Tensor:
    """The sum from the other end, which rounds otherwise."""
    return linear(X, weight).tanh().flip(0).cumsum(0)[-1]


def test_a_transposed_weight_is_proven_beside_rounding() -> None:
    found = whydiff.compare(whole, lambda: apart(W.T))
    (cause,) = [cause for cause in found.causes if cause.verdict is Verdict.SEMANTIC]
    assert (cause.code, cause.status) == ("FO004", "confirmed"), cause.reason
    assert {experiment.left for experiment in cause.experiments} == {"rounding"}


def test_rounding_alone_is_no_other_order() -> None:
    assert whydiff.compare(whole, lambda: apart(W)).verdict is Verdict.ROUNDING
