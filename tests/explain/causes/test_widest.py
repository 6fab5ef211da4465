"""Numbers that float32 itself cannot hold: float64 is what they are tried in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff

torch.manual_seed(3)
X = torch.randn(4, 16) * 40


def _softmax(shifted: bool, factor: float) -> Any:
    def run() -> Any:
        logits = X * factor
        powers = (logits - logits.amax(-1, keepdim=True) if shifted else logits).exp()
        return powers / powers.sum(-1, keepdim=True)

    return run


def _energy(scaled: bool, size: float) -> Any:
    def run() -> Any:
        x = X * size
        largest = x.abs().amax(-1, keepdim=True) if scaled else torch.ones(4, 1)
        return largest * (x / largest).square().mean(-1, keepdim=True).sqrt()

    return run


def _of(found: Any, code: str) -> list[Any]:
    return [cause for cause in found.causes if cause.code == code and cause.status != "refuted"]


@pytest.mark.parametrize(("made", "size"), [(_softmax, 3.0), (_energy, 1e19)])
def test_what_overflows_float32_is_located_in_float64(made: Any, size: float) -> None:
    found = whydiff.compare(made(True, size), made(False, size))
    assert str(found.verdict) == "unstable"
    (cause,) = _of(found, "OV001")
    assert cause.status == "located"  # both sides are float32: the dtype alone is not why
    assert [item.value for item in cause.interventions] == ["float64"]
    assert cause.experiments[0].status == "confirmed"


@pytest.mark.parametrize(("made", "size"), [(_softmax, 0.1), (_energy, 1.0)])
def test_what_float32_holds_is_rounding(made: Any, size: float) -> None:
    found = whydiff.compare(made(True, size), made(False, size))
    assert str(found.verdict) == "rounding"
    assert not found.causes


def test_a_pole_overflows_in_no_dtype() -> None:
    zero = torch.zeros(4)
    found = whydiff.compare(lambda: 1 / (zero + 0.5), lambda: 1 / (zero * 0.5))
    assert not _of(found, "OV001")
