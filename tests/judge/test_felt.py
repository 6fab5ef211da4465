"""A step that one side carries out and that changes no output is not said to be why the outputs differ."""

from __future__ import annotations

import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def sums(*, turned: bool, shift: float, weighted: bool = False) -> torch.Tensor:
    """Twelve sums over 512 numbers each, turned round first, which a plain sum does not feel; one may be shifted."""
    given = []
    for number in range(12):
        y = (X + number * 0.01).repeat(1, 64)
        last = y.flip(-1) if turned else y
        if weighted:
            last = last * torch.arange(512.0)
        plain = last.sum(-1, keepdim=True) * 1.0 if turned else last.sum(-1, keepdim=True)
        given.append((y + shift * y.abs().max()).flip(-1).sum(-1, keepdim=True) if shift and number == 7 else plain)
    return torch.stack(given)


def test_what_a_sum_does_not_feel_is_not_confirmed_beside_a_defect() -> None:
    found = compare(lambda: sums(turned=False, shift=0.0), lambda: sums(turned=True, shift=1e-3))
    assert found.verdict is Verdict.SEMANTIC
    turned = [c for c in found.causes if c.verdict is Verdict.SEMANTIC and "flip" in c.says and "add" not in c.says]
    assert {c.status for c in turned} <= {"inconclusive", "refuted"}
    assert [c.code for c in found.causes if c.status in ("confirmed", "located") and "add" in c.says] == ["FO007"]


def test_what_a_weighted_sum_feels_is() -> None:
    found = compare(
        lambda: sums(turned=False, shift=0.0, weighted=True), lambda: sums(turned=True, shift=0.0, weighted=True)
    )
    assert found.verdict is Verdict.SEMANTIC
    assert [c for c in found.causes if "flip" in c.says and c.status in ("confirmed", "located")]
