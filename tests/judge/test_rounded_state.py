"""Weights that one side holds rounded make a precision of every place that they reach, and of nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.RMSNorm(16, eps=1e-6)
        self.up, self.down = torch.nn.Linear(16, 32, bias=False), torch.nn.Linear(32, 16, bias=False)
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        normed = self.norm.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return x + self.down(torch.nn.functional.silu(self.up(normed)))


def model() -> Any:
    torch.manual_seed(0)
    found = torch.nn.Sequential(torch.nn.Embedding(20, 16), Block(), Block(), torch.nn.Linear(16, 20))
    with torch.no_grad():
        found[0].weight *= 0.02
    return found.eval()


def same(_: Any) -> None:
    """Nothing else differs."""


def other_weight(narrow: Any) -> None:
    with torch.no_grad():
        narrow[2].up.weight[0] *= 1.5


def other_epsilon(narrow: Any) -> None:
    narrow[1].eps = narrow[2].eps = 1e-3


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(same, Verdict.PRECISION), (other_weight, Verdict.SEMANTIC), (other_epsilon, Verdict.SEMANTIC)],
)
def test_a_model_cast_to_sixteen_bits(change: Callable[[Any], None], verdict: Verdict) -> None:
    wide = model()
    narrow = copy.deepcopy(wide).to(torch.bfloat16)
    change(narrow)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        found = whydiff.compare(lambda: wide(ids), lambda: narrow(ids).float())
    assert found.verdict is verdict, found.reason
    assert {"ST003", "PR002"} & {cause.code for cause in found.causes}
