"""Draws at the same size whose axes stand in another order: the same numbers meet other elements."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff
from whydiff.explain.draws import moved_axes
from whydiff.records import Verdict

torch.manual_seed(2)
UP, DOWN, X = torch.randn(6, 10), torch.randn(10, 4), torch.randn(3, 5, 6)


def _dropped(turned: bool, rate: float = 0.3) -> Any:
    def run() -> Any:
        torch.manual_seed(1)
        wide = X @ UP
        if turned:
            return torch.dropout(wide.transpose(0, 1).contiguous(), rate, True).transpose(0, 1) @ DOWN
        return torch.dropout(wide, rate, True) @ DOWN

    return run


@pytest.mark.parametrize("sides", [(False, True), (True, False)], ids=["candidate", "reference"])
def test_a_mask_that_is_drawn_before_axes_are_exchanged(sides: tuple[bool, bool]) -> None:
    found = whydiff.compare(*map(_dropped, sides))
    assert found.verdict is Verdict.SEMANTIC
    assert [(cause.code, cause.status) for cause in found.causes] == [("MD002", "confirmed")]
    assert "axes in another order" in found.causes[0].says


def test_another_rate_is_not_the_order_of_the_axes() -> None:
    found = whydiff.compare(_dropped(True, 0.3), _dropped(True, 0.5))
    assert not any(cause.code == "MD002" and cause.status == "confirmed" for cause in found.causes)


def test_which_axes_are_which() -> None:
    assert moved_axes((3, 5, 10), (5, 3, 10)) == (1, 0, 2)
    assert moved_axes((2, 2, 3), (2, 3, 2)) == (0, 2, 1)
    assert moved_axes((3, 5), (3, 5)) == ()
    assert moved_axes((3, 5, 10), (15, 10)) == ()
