"""A mean of rows' means against one mean over all that counts, alone and beside another mistake."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import cross_entropy

import whydiff

torch.manual_seed(0)
X, W = torch.randn(3, 6, 5), torch.randn(5, 7)
LABELS = torch.arange(18).view(3, 6) * 5 % 7


def loss(lengths: tuple[int, ...], rows: bool, scale: float = 1.0) -> Callable[[], torch.Tensor]:
    mask = (torch.arange(6)[None] < torch.tensor(lengths)[:, None]).float()

    def run() -> torch.Tensor:
        hidden = torch.tanh(X * scale if scale != 1.0 else X)
        found = cross_entropy((hidden @ W).flatten(0, 1), LABELS.flatten(), reduction="none").view(3, 6) * mask
        return (found.sum(1) / mask.sum(1)).mean() if rows else found.sum() / mask.sum()

    return run


@pytest.mark.parametrize("turned", [False, True])
def test_it_is_named_and_its_place_is_shown(turned: bool) -> None:
    found = whydiff.compare(loss((6, 2, 4), turned), loss((6, 2, 4), not turned))
    assert [(cause.code, cause.status) for cause in found.causes] == [("TR001", "located")]
    data = found.causes[0].evidence[0].data
    assert (data["side"], data["counts"]) == ("reference" if turned else "candidate", [6.0, 2.0, 4.0])


def test_a_factor_beside_it_is_proven_although_the_sums_have_other_shapes() -> None:
    found = whydiff.compare(loss((6, 2, 4), False, scale=4.0), loss((6, 2, 4), True))
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO003", "confirmed"), ("TR001", "located")]


def test_rows_that_count_equally_many_have_one_mean() -> None:
    found = whydiff.compare(loss((4, 4, 4), False), loss((4, 4, 4), True))
    assert found.verdict in (whydiff.Verdict.ROUNDING, whydiff.Verdict.IDENTICAL)


def test_a_loss_that_one_side_multiplies_is_no_count_that_happens_to_be_the_factor() -> None:
    x = torch.randn(4, 5)
    found = whydiff.compare(lambda: torch.tanh(x).square().mean() * 4, lambda: torch.tanh(x).square().mean())
    assert [(cause.code, cause.status) for cause in found.causes] == [("FO007", "confirmed")]
