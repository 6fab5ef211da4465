"""The same random numbers drawn in another order, and other ones."""

from __future__ import annotations

from pathlib import Path

import torch

import whydiff
from whydiff.records import Diagnosis, Verdict


def _run(order: str, steps: int = 6) -> torch.Tensor:
    """Noise on inputs and on hidden values; from step 3 on drawn in the given order."""
    torch.manual_seed(0)
    x, weight = torch.randn(4, 12), torch.randn(12, 20) * 0.3
    for step in range(steps):
        later = step >= 3
        if later and order == "swapped":
            hidden, given = torch.randn(4, 20), torch.randn(4, 12)
        elif later and order == "others":
            given, hidden = torch.randn(4, 12), torch.randn(20).expand(4, 20)
        else:
            given, hidden = torch.randn(4, 12), torch.randn(4, 20)
        weight = weight + 0.01 * (x + 0.1 * given).T @ (torch.tanh(x @ weight) + 0.1 * hidden)
    return x @ weight


def _compared(folder: Path, order: str) -> Diagnosis:
    for name in ("straight", order):
        with whydiff.capture(folder / name):
            _run(name)
    return whydiff.compare(str(folder / "straight"), str(folder / order))


def test_two_sizes_drawn_in_another_order_from_a_later_step_on(tmp_path: Path) -> None:
    found = _compared(tmp_path, "swapped")
    (cause,) = [c for c in found.causes if c.status in ("confirmed", "located") and not c.inert]
    assert (found.verdict, cause.code, cause.status) == (Verdict.SEMANTIC, "MD002", "confirmed")
    assert cause.says == "both sides draw the same random numbers, in another order"
    assert {item.name for item in cause.interventions} == {"draw-as"} and len(cause.interventions) == 6
    assert {one.direction: one.after for one in cause.experiments} == {"take_away": 0.0, "put_in": 0.0}


def test_other_sizes_are_no_other_order(tmp_path: Path) -> None:
    found = _compared(tmp_path, "others")
    assert found.verdict is Verdict.SEMANTIC
    assert not any("order" in cause.says for cause in found.causes)
