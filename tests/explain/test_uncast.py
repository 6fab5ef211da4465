"""A recorded program with its cast undone is the program that was never cast."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn

from whydiff.capturing.adapters import for_framework, retyped
from whydiff.explain.uncast import uncast
from whydiff.pair.replay import replay
from whydiff.records import Payload

X = torch.linspace(-1, 1, 8)[None]


def recorded(model: nn.Module, x: torch.Tensor) -> Any:
    with torch.no_grad():
        return for_framework("torch").run(model, (x,), {}).capture(level="op")


def payloads(trace: Any) -> dict[str, Payload]:
    return {leaf.name: trace.payload(leaf.payload) for leaf in trace.leaves}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rounded = self.inner(x).to(self.inner.weight.dtype)
        return torch.softmax(rounded + torch.ones(8, dtype=rounded.dtype), -1)


def test_it_is_the_program_that_was_never_cast() -> None:
    wide, narrow = recorded(Model(), X), recorded(copy.deepcopy(Model()).bfloat16(), X.bfloat16())
    made = uncast(narrow, "float32", "bfloat16", payloads(wide))
    assert made is not None
    given = [list(replay(for_framework("torch").executor(one)).outputs.values()) for one in (wide, made)]
    assert [(one.dtype, one.bits.tobytes()) for one in given[0]] == [
        (one.dtype, one.bits.tobytes()) for one in given[1]
    ]
    assert {event.spec.dtype for call in made.calls for event in (*call.reads, *call.writes)} == {"float32"}
    prints = [[event.fingerprint for call in one.calls for event in call.writes] for one in (wide, made)]
    assert prints[0] == prints[1]


def test_what_cannot_be_carried_out_in_the_wide_dtype_is_left_alone() -> None:
    narrow = recorded(copy.deepcopy(Model()).bfloat16(), X.bfloat16())
    assert (
        uncast(narrow, "float32", "bfloat16", {"inner.weight": Payload(np.zeros((3, 3), np.float32), "float32")})
        is None
    )


def test_only_dtypes_of_arguments_change() -> None:
    template = [[{"$read": 0}, {"$dtype": "bfloat16"}, "bfloat16"], {"dtype": {"$dtype": "int64"}, "more": [1, None]}]
    assert retyped(template, {"bfloat16": "float32"}) == [
        [{"$read": 0}, {"$dtype": "float32"}, "bfloat16"],
        {"dtype": {"$dtype": "int64"}, "more": [1, None]},
    ]
