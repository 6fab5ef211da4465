"""Tensors that differ where nothing reads them, beside a sum in another order: the answers were fixed before the first run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import whydiff

torch.manual_seed(0)
VALUES, LENGTHS = torch.randn(4, 48, 5), torch.tensor([48, 30, 17, 5])
REAL = torch.arange(48)[None] < LENGTHS[:, None]
ONES, NINES = (torch.where(REAL[..., None], VALUES, torch.tensor(value)) for value in (1.0, 9.0))


class Pooled(torch.nn.Module):
    """The mean over real positions of a held tensor."""

    def __init__(self, held: torch.Tensor, blocks: bool, seen: int = 0) -> None:
        super().__init__()
        self.register_buffer("held", held)
        self.blocks, self.seen = blocks, seen

    def forward(self) -> Any:
        real = torch.arange(48)[None] < (LENGTHS + self.seen)[:, None]
        kept = torch.where(real[..., None], self.held.sinh(), torch.tensor(0.0))
        total = kept.flip(1).unflatten(1, (8, 6)).sum(2).sum(1) if self.blocks else kept.sum(1)
        return torch.tanh(total / LENGTHS[:, None])


def test_padding_that_is_masked_away_is_no_other_function() -> None:
    found = whydiff.compare(Pooled(ONES, False), Pooled(NINES, True))
    assert str(found.verdict) == "rounding", found.reason
    assert not [cause for cause in found.causes if cause.status in ("confirmed", "located") and cause.code[:2] == "ST"]


@pytest.mark.parametrize("blocks", [False, True])
def test_padding_of_which_the_mask_lets_one_row_through_is(blocks: bool) -> None:
    found = whydiff.compare(Pooled(ONES, False, seen=1), Pooled(NINES, blocks, seen=1))
    assert str(found.verdict) == "semantic", found.reason


def in_other_steps(blocks: bool) -> Any:
    total = VALUES.exp().flatten(1)
    return torch.log(total.unflatten(1, (12, 20)).sum(2).sum(1) if blocks else total.sum(1))


def spelt_out(whole: bool) -> Any:
    return torch.sigmoid(VALUES * 3) if whole else 1 / (1 + torch.exp(VALUES * -3))


def test_sums_in_other_steps_are_told_and_not_proven() -> None:
    found = whydiff.compare(lambda: in_other_steps(False), lambda: in_other_steps(True))
    assert str(found.verdict) == "rounding", found.reason
    assert found.causes[0].code == "OR001" and found.causes[0].reason, found.causes


def test_where_nothing_is_added_up_no_order_is_named() -> None:
    found = whydiff.compare(lambda: spelt_out(True), lambda: spelt_out(False))
    assert str(found.verdict) == "rounding", found.reason
    assert "OR001" not in {cause.code for cause in found.causes}


LOGITS = torch.randn(6, 12), torch.randn(12, 40) / 4
UNUSED = torch.arange(40) >= 36


@pytest.mark.parametrize("fill", [-1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize("added", [False, True])
def test_masked_logits_hide_no_other_function(fill: float, added: bool) -> None:
    """Unused entries of a vocabulary hold a huge number, beside which all others are nothing."""

    def run(activation: Any) -> Any:
        logits = activation(LOGITS[0]) @ LOGITS[1]
        return logits + torch.zeros(40).masked_fill(UNUSED, fill) if added else logits.masked_fill(UNUSED, fill)

    gelu = torch.nn.functional.gelu
    found = whydiff.compare(lambda: run(gelu), lambda: run(torch.relu))
    assert str(found.verdict) == "semantic", found.reason
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO001", "confirmed")]
    found = whydiff.compare(lambda: run(torch.tanh), lambda: run(lambda x: torch.tanh(x * 3 / 3)))
    assert str(found.verdict) == "rounding", found.reason


def test_a_masked_score_hides_no_step_that_is_left_out() -> None:
    def run(cap: float | None) -> Any:
        scores = LOGITS[0] @ LOGITS[0].mT
        scores = cap * torch.tanh(scores / cap) if cap else scores
        hidden = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)
        return torch.softmax(scores + hidden, -1) @ LOGITS[0]

    found = whydiff.compare(lambda: run(2.0), lambda: run(None))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO007", "confirmed")]
    assert found.causes[0].evidence[0].data["does"] == "is a soft cap, c tanh(x / c) with c = 2"


def test_other_outputs_in_one_tensor_hide_no_other_function() -> None:
    counts = torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) * 1e14

    def run(activation: Any) -> Any:
        return torch.cat([counts, activation(LOGITS[0]) @ LOGITS[1]], 1)

    found = whydiff.compare(lambda: run(torch.nn.functional.gelu), lambda: run(torch.relu))
    assert str(found.verdict) == "semantic", found.reason
    found = whydiff.compare(lambda: run(torch.tanh), lambda: run(lambda x: torch.tanh(x * 3 / 3)))
    assert str(found.verdict) == "rounding", found.reason
