"""A model cast as a whole in which something else is wrong too: the mistake is another function, the cast is precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, silu

import whydiff
from whydiff.records import Verdict

SCALE = 0.25


class Model(nn.Module):
    """Embeddings, attention and a feed-forward part; every number in it stands in the code, not in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(20, 16)
        self.q, self.k, self.v = (nn.Linear(16, 16) for _ in range(3))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 20, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids) * 0.05
        h = self.norm(x)
        x = x + torch.softmax(self.scaled(self.q(h) @ self.k(h).mT), -1) @ self.v(h)
        return self.head(x + self.down(self.act(self.up(self.norm(x)))))

    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (16,), eps=1e-5)

    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        return scores * SCALE

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return gelu(x)


class OtherEpsilon(Model):
    def norm(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, (16,), eps=1e-3)


class NoScale(Model):
    def scaled(self, scores: torch.Tensor) -> torch.Tensor:
        return scores


class OtherActivation(Model):
    def act(self, x: torch.Tensor) -> torch.Tensor:
        return silu(x)


class Respelt(Model):
    """The same function: what is left beside the cast is rounding."""

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.erf(x * 0.5**0.5))


WRONG = [(OtherEpsilon, torch.float16), (NoScale, torch.bfloat16), (OtherActivation, torch.float16)]
RIGHT = [(Model, torch.bfloat16), (Model, torch.float16), (Respelt, torch.bfloat16)]


def compared(reference: nn.Module, candidate: nn.Module) -> Any:
    ids = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        return whydiff.compare(reference.eval(), candidate.eval(), ids)


@pytest.mark.parametrize(("made", "dtype"), WRONG)
def test_what_is_wrong_beside_a_cast_is_another_function(made: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    found = compared(Model(), made().to(dtype))
    assert found.verdict is Verdict.SEMANTIC, found.reason


@pytest.mark.parametrize(("made", "dtype"), RIGHT)
def test_a_cast_alone_is_precision(made: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    found = compared(Model(), made().to(dtype))
    assert found.verdict is Verdict.PRECISION, found.reason
