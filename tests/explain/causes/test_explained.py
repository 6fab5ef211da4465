"""Origins that a named function explains: told apart on values, proven in a replay, from disk as live."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whydiff
from whydiff.explain.causes._values import distance
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

F = torch.nn.functional
G = torch.Generator().manual_seed(0)
X, W = torch.randn(4, 16, generator=G), torch.randn(16, 16, generator=G)
Q, K, V = (torch.randn(1, 2, 8, 16, generator=G) for _ in range(3))
Target = Callable[[], Any]


def shown(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    return [(cause.code, cause.status) for cause in diagnosis.causes]


def named(diagnosis: Any) -> list[str]:
    """Codes of the causes that an experiment speaks for."""
    return [code for code, status in shown(diagnosis) if status in ("confirmed", "located")]


def rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def tanh_gelu(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def rotary(pairs: bool) -> torch.Tensor:
    angles = torch.arange(64.0).reshape(8, 8)
    cos, sin = angles.cos(), angles.sin()

    def turned(t: torch.Tensor) -> torch.Tensor:
        if pairs:
            c, s = cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)
            other = torch.stack((-t[..., 1::2], t[..., ::2]), -1).flatten(-2)
        else:
            c, s = torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
            first, second = t.chunk(2, -1)
            other = torch.cat((-second, first), -1)
        return t * c + other * s

    return torch.softmax(turned(Q) @ turned(K).mT, -1)


PAIRS: dict[str, tuple[str, Target, Target]] = {
    "gelu written out": ("FO001", lambda: F.gelu(X) @ W, lambda: tanh_gelu(X) @ W),
    "quick gelu": ("FO001", lambda: (X * torch.sigmoid(1.702 * X)) @ W, lambda: F.gelu(X) @ W),
    "eps of a fused and a written norm": (
        "FO002",
        lambda: F.rms_norm(X, (16,), eps=1e-5) @ W,
        lambda: rms(X, 1e-2) @ W,
    ),
    "eps of written norms": ("FO002", lambda: rms(X, 1e-5) @ W, lambda: rms(X, 1e-2) @ W),
    "missing scale": ("FO003", lambda: torch.softmax(X @ W * 0.25, -1), lambda: torch.softmax(X @ W, -1)),
    "transposed weight": ("FO004", lambda: F.linear(X, W), lambda: X @ W),
    "rotary pairs": ("FO004", lambda: rotary(False), lambda: rotary(True)),
    "attention": (
        "EN003",
        lambda: F.scaled_dot_product_attention(Q, K, V) * 2,
        lambda: torch.softmax(Q @ K.mT * 0.25, -1) @ V * 2,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("turned", [False, True])
def test_the_cause_is_named_and_proven_in_both_directions(name: str, turned: bool) -> None:
    code, reference, candidate = PAIRS[name]
    diagnosis = compare(candidate, reference) if turned else compare(reference, candidate)
    assert named(diagnosis) == [code]


@pytest.mark.parametrize("name", ["eps of written norms", "rotary pairs", "attention"])
def test_traces_on_disk_give_the_same_causes(name: str, tmp_path: Path) -> None:
    code, reference, candidate = PAIRS[name]
    for side, target in (("r", reference), ("c", candidate)):
        with whydiff.capture(str(tmp_path / side), payloads="all"):
            target()
    assert named(compare(str(tmp_path / "r"), str(tmp_path / "c"))) == [code]


def test_two_causes_at_once_are_both_proven() -> None:
    diagnosis = compare(
        lambda: torch.softmax(F.gelu(rms(X, 1e-5)) @ W, -1),
        lambda: torch.softmax(F.gelu(rms(X, 1e-2), approximate="tanh") @ W, -1),
    )
    assert sorted(named(diagnosis)) == ["FO001", "FO002"]


def test_a_factor_that_moved_is_no_defect() -> None:
    diagnosis = compare(lambda: torch.softmax((X * 0.3) @ W, -1), lambda: torch.softmax((X @ W) * 0.3, -1))
    assert diagnosis.verdict is Verdict.ROUNDING
    assert [one for one in shown(diagnosis) if one != ("OR001", "inconclusive")] == []


def test_a_variance_that_cancels_more_than_half_of_its_digits_is_unstable() -> None:
    y = X + 1000

    def run(one_pass: bool) -> torch.Tensor:
        mean = y.mean(-1, keepdim=True)
        variance = (y**2).mean(-1, keepdim=True) - mean**2 if one_pass else ((y - mean) ** 2).mean(-1, keepdim=True)
        return ((y - mean) * torch.rsqrt(variance + 1e-5)) @ W

    diagnosis = compare(lambda: run(False), lambda: run(True))
    assert named(diagnosis) == ["FO005"]
    assert diagnosis.verdict is Verdict.UNSTABLE


def test_a_value_that_neither_side_computes_is_no_missing_counterpart() -> None:
    def run(after: bool) -> torch.Tensor:
        hidden = torch.tanh(X @ W)
        return F.layer_norm(hidden, (16,)) if after else hidden

    assert "NC001" not in dict(shown(compare(lambda: run(True), lambda: run(False))))


def test_a_distance_of_infinities_is_that_of_the_finite_numbers_and_warns_of_nothing() -> None:
    ours, theirs = np.array([math.inf, 1.0]), np.array([math.inf, 2.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert distance(ours, theirs) == 1.0 and distance(ours, theirs[::-1]) == math.inf
