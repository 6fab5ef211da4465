"""A value that is rounded on the way on one side: what it is called there, and copies of it, hide no cause."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import whydiff
from whydiff.records import Verdict


def model() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)).eval()


def narrow(x: torch.Tensor) -> torch.Tensor:
    return x.bfloat16().float()


Rounded = Callable[[torch.nn.Sequential, torch.Tensor], torch.Tensor]
ROUNDED: dict[str, Rounded] = {
    "the input": lambda m, x: m(narrow(x)),
    "a copy of the input": lambda m, x: m(narrow(x.clone())),
    "an activation": lambda m, x: m[2](narrow(m[1](m[0](x)))),
}


@pytest.mark.parametrize("where", ROUNDED)
@pytest.mark.parametrize("side", ["candidate", "reference"])
def test_a_rounded_value_is_proven_both_ways(where: str, side: str) -> None:
    whole = model()
    sides = [whole, lambda value: ROUNDED[where](whole, value)]  # a module calls its argument "input"
    found = whydiff.compare(*(sides if side == "candidate" else sides[::-1]), torch.randn(4, 16))
    (cause,) = found.causes
    assert found.verdict is Verdict.PRECISION
    assert (cause.code, cause.status) == ("PR006", "confirmed"), cause
    assert cause.says == f"a value of the {side} passes through bfloat16"
    assert len(cause.experiments) == 2


def test_two_inputs_of_other_content_are_not_one_value() -> None:
    whole = model()
    found = whydiff.compare(lambda a, b: whole(a), lambda a, b: whole(narrow(b)), torch.ones(4, 16), torch.zeros(4, 16))
    assert not [cause for cause in found.causes if cause.code == "PR006"]
