"""Modules against functions: which ops pair under scopes that have nothing to do with each other, and which do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from build import check
from torch import nn
from torch.nn import functional as F

from whydiff.capturing.adapters import for_framework
from whydiff.pair.align import align

_seeded = torch.Generator().manual_seed(0)
X, Q, K, V, W = (torch.randn(4, 4, generator=_seeded) for _ in range(5))


class Scoped(nn.Module):
    """A module whose every call is of a child: each has a scope of its own."""

    def __init__(self, *functions: Callable[[Any], Any]) -> None:
        super().__init__()
        for n, function in enumerate(functions):
            child = nn.Module()
            child.forward = function  # type: ignore[method-assign]
            self.add_module(f"part{n}", child)

    def forward(self, x: Any) -> Any:
        for part in self.children():
            x = part(x)
        return x


class Attention(nn.Module):
    """Three products by children; the last ops are its own."""

    def __init__(self, *weights: torch.Tensor) -> None:
        super().__init__()
        self.q, self.k, self.v = (Scoped(lambda x, w=w: x @ w) for w in weights)

    def forward(self, x: Any) -> Any:
        q, k, v = self.q(x), self.k(x), self.v(x)
        return torch.softmax(q @ k.mT, -1) @ v


def in_another_order(*weights: torch.Tensor) -> Callable[[Any], Any]:
    def run(x: Any) -> Any:
        k, q, v = (x @ weights[n] for n in (1, 0, 2))
        return torch.softmax(q @ k.mT, -1) @ v

    return run


def pairs(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> list[tuple[str, str]]:
    """The ops that pair under other scopes, as often as they are called; both ways round."""
    traces = [for_framework("torch").run(run, (X,), {}).capture() for run in (one, other)]
    found, turned = align(*traces), align(*traces[::-1])
    check(found, *traces)
    assert {(p.reference, p.candidate) for p in found} == {(p.candidate, p.reference) for p in turned}
    calls = [trace.calls for trace in traces]
    new = [(calls[0][p.reference], calls[1][p.candidate]) for p in found if p.how == "other scope"]
    return [(f"{a.site.op}{a.site.occurrence}", f"{b.site.op}{b.site.occurrence}") for a, b in new]


soft, hard = (lambda x: F.softplus(x)), (lambda x: F.softplus(x, 3.0))
MANY = (torch.tanh, lambda x: F.leaky_relu(x, 0.2), soft, hard, lambda x: x @ W)


@pytest.mark.parametrize(
    ("parts", "run", "found"),
    [
        (MANY, lambda x: hard(soft(F.leaky_relu(torch.tanh(x), 0.3))) @ W, 5),
        ((torch.tanh, torch.relu_), lambda x: torch.relu(torch.tanh(x)), 2),
        ((soft, soft, torch.tanh, torch.relu), lambda x: torch.relu(torch.tanh(soft(x))), 2),
        ((torch.tanh, torch.erf), lambda x: torch.tanh(torch.erf(x)), 0),
        ((torch.tanh, torch.erf, torch.exp), lambda x: torch.exp(torch.tanh(torch.erf(x))), 1),
        ((torch.tanh, torch.erf), lambda x: (torch.tanh(x), torch.erf(x))[1], 1),
    ],
    ids=["one to one", "in place", "one less of a kind", "swapped", "swapped, then alike", "wired otherwise"],
)
def test_ops_alike_in_a_row_pair_where_nothing_else_is_possible(parts: Any, run: Any, found: int) -> None:
    new = pairs(Scoped(*parts), run)
    assert len(new) == found
    assert all(one.rstrip("_0123456789") == other.rstrip("_0123456789") for one, other in new)


def test_products_in_another_order_do_not_pair_crosswise() -> None:
    weights = (Q, K, V)
    assert ("mm0", "mm0") not in pairs(Attention(*weights), in_another_order(*weights))
    other = tuple(w * 1.01 for w in weights)  # no bits tell q from k: what reads them does
    new = pairs(Attention(*weights), in_another_order(*other))
    assert ("mm0", "mm0") not in new and ("mm1", "mm1") not in new


def test_programs_with_nothing_in_common_but_the_names_of_ops_do_not_pair() -> None:
    """Roots of a sum of squares, and of a sum of distances from the mean: no value of one is the other's."""

    def about_the_mean(x: Any) -> Any:
        away = x - x.mean(-1, keepdim=True)
        return away * torch.rsqrt(away.pow(2).mean(-1, keepdim=True) + 1e-5)

    assert not pairs(Scoped(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)), about_the_mean)
