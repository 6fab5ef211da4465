"""An overflow that a clamp hides shows at no place: every number is finite, and the outputs are wrong all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import whydiff
from whydiff.records import Verdict

Q = torch.linspace(0.1, 1, 96).reshape(6, 16)
LIMIT = torch.finfo(torch.float16).max


def to_limits(scores: torch.Tensor) -> torch.Tensor:
    """As models do that were made for a wider dtype."""
    return scores.clamp(torch.finfo(scores.dtype).min, torch.finfo(scores.dtype).max)


def scored(dtype: torch.dtype, size: float, hide: Callable[[torch.Tensor], torch.Tensor], kept: int = 6) -> Any:
    """Sums of products, those from ``kept`` on masked; at size 100 some do not fit into float16."""
    scale = torch.full((6, 1), size)

    def program() -> torch.Tensor:
        keys = (Q * scale).to(dtype)
        scores = hide((Q * 100).to(dtype) @ keys.T)
        return torch.where(torch.arange(6) < kept, scores, 0.0).float() / 1000

    return program


def compared(size: float, hide: Any, kept: int = 6, dtype: torch.dtype = torch.float16) -> Any:
    return whydiff.compare(scored(torch.float32, size, hide, kept), scored(dtype, size, hide, kept))


@pytest.mark.parametrize("hide", [to_limits, torch.nan_to_num])
def test_what_is_hidden_is_unstable(hide: Any) -> None:
    found = compared(100.0, hide)
    assert found.verdict is Verdict.UNSTABLE, found.reason
    assert {"OV001", "OV002"} & {cause.code for cause in found.causes if cause.status in ("confirmed", "located")}


@pytest.mark.parametrize("hide", [to_limits, torch.nan_to_num])
def test_what_does_not_overflow_or_reaches_no_output_is_precision(hide: Any) -> None:
    small, masked = compared(10.0, hide), compared(100.0, hide, kept=1)
    assert small.verdict is Verdict.PRECISION, small.reason
    assert not [cause for cause in small.causes if cause.code.startswith("OV")]
    assert masked.verdict is Verdict.PRECISION, masked.reason


def test_a_dtype_of_the_same_range_hides_nothing() -> None:
    found = compared(100.0, torch.nan_to_num, dtype=torch.bfloat16)
    assert found.verdict is Verdict.PRECISION, found.reason
    assert not [cause for cause in found.causes if cause.code.startswith("OV")]


@pytest.mark.parametrize("mistake", ["rows", "activation"])
@pytest.mark.parametrize("hide", [to_limits, torch.nan_to_num])
def test_one_that_no_output_feels_explains_no_mistake_beside_it(hide: Any, mistake: str) -> None:
    layer = torch.nn.Linear(16, 8)
    torch.nn.init.orthogonal_(layer.weight)

    def program(dtype: torch.dtype, wrong: bool) -> Any:
        def run() -> torch.Tensor:
            act = torch.relu if wrong and mistake == "activation" else torch.nn.functional.gelu
            x = Q.roll(1, 0) if wrong and mistake == "rows" else Q
            out = act(torch.nn.functional.linear(x.to(dtype), layer.weight.to(dtype)) - 0.5)
            unfelt = hide((x * 1000).to(dtype) * (Q.flip(1) * 1000).to(dtype)) * 0
            return (out + unfelt.mean(-1, keepdim=True)).float()

        return run

    found = whydiff.compare(program(torch.float32, False), program(torch.float16, True))
    assert found.verdict not in (Verdict.UNSTABLE, Verdict.PRECISION, Verdict.ROUNDING), found.reason
