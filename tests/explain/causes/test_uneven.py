"""A mean of parts' means over unequal counts is one proven cause, whatever the parts count; other weights of parts are none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import whydiff
from whydiff.records import Verdict

Loss = Callable[[torch.Tensor, slice], torch.Tensor]
X, LABELS = torch.randn(7, 6, generator=torch.Generator().manual_seed(0)), torch.arange(7) % 5
IGNORED = torch.where(torch.arange(7) > 4, -100, LABELS)
MASK = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
PARTS = slice(0, 4), slice(4, 7)


def training(loss: Loss, parts: tuple[slice, ...] = PARTS, updates: int = 2) -> Callable[[], Any]:
    """The weights after updates from gradients that add up over parts."""

    def run() -> Any:
        torch.manual_seed(1)
        weight = torch.randn(6, 5, requires_grad=True)
        for _ in range(updates):
            weight.grad = None
            for part in parts:
                loss(X[part] @ weight, part).backward()
            with torch.no_grad():
                weight -= 0.5 * weight.grad
        return weight.detach()

    return run


def over_all(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return F.cross_entropy(logits, LABELS[part], reduction="sum") / 7


def each(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return F.cross_entropy(logits, LABELS[part]) / 2


def labels_over_all(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return F.cross_entropy(logits, IGNORED[part], reduction="sum") / 5


def labels_each(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return F.cross_entropy(logits, IGNORED[part]) / 2


def kept_over_all(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return (logits.square().sum(-1) * MASK[part]).sum() / MASK.sum()


def kept_each(logits: torch.Tensor, part: slice) -> torch.Tensor:
    return (logits.square().sum(-1) * MASK[part]).sum() / MASK[part].sum() / 2


def causes(reference: Callable[[], Any], candidate: Callable[[], Any]) -> list[tuple[str, str]]:
    found = whydiff.compare(reference, candidate)
    assert found.verdict is Verdict.SEMANTIC
    return [(cause.code, cause.status) for cause in found.causes if cause.status != "refuted"]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "losses",
    [(over_all, each), (labels_over_all, labels_each), (kept_over_all, kept_each)],
    ids=["rows", "labels", "a mask"],
)
def test_one_cause_is_proven(losses: tuple[Loss, Loss], turned: bool) -> None:
    one, other = losses[::-1] if turned else losses
    assert causes(training(one), training(other)) == [("TR001", "confirmed")]


def test_against_one_batch_it_is_located() -> None:
    whole = training(lambda logits, part: F.cross_entropy(logits, LABELS[part]), (slice(0, 7),))
    assert causes(whole, training(each)) == [("TR001", "located")]


@pytest.mark.parametrize("weights", [(0.5, 1.5), (1.5, 0.5), (4 / 3, 2 / 3)])
def test_parts_of_other_weights_are_no_means(weights: tuple[float, float]) -> None:
    def weighed(logits: torch.Tensor, part: slice) -> torch.Tensor:
        return each(logits, part) * weights[part.start > 0]

    found = whydiff.compare(training(each, updates=1), training(weighed, updates=1))
    assert not any("parts' means" in cause.says for cause in found.causes if cause.status == "confirmed")


def test_parts_that_count_equally_many_are_rounding_at_most() -> None:
    equal = slice(0, 3), slice(3, 6)
    one = training(lambda logits, part: F.cross_entropy(logits, LABELS[part], reduction="sum") / 6, equal)
    assert whydiff.compare(one, training(each, equal)).verdict in (Verdict.ROUNDING, Verdict.IDENTICAL)
