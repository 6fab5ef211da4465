"""A flag that switches random numbers on: what it does is named, and not only that it differs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(5))


class Noisy(torch.nn.Module):
    def __init__(self, smooth: bool, factor: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(8, 12), torch.nn.Linear(12, 3)
        self.smooth, self.factor = smooth, factor

    def forward(self, x: Any) -> Any:
        hidden = torch.relu(self.first(x))
        if self.smooth:
            noise = 0.1 * torch.randn_like(hidden)
            hidden = hidden + noise if self.factor == 1 else hidden * self.factor + noise
        return self.second(hidden)


class Dropping(Noisy):
    def forward(self, x: Any) -> Any:
        hidden = torch.tanh(self.first(x))
        return self.second(torch.nn.functional.dropout(hidden, 0.3) if self.smooth else hidden)


@pytest.mark.parametrize("made", [Noisy, Dropping])
def test_a_flag_that_draws_noise_or_drops_is_named_by_that(made: type[Noisy]) -> None:
    found = compare(made(False).eval(), made(True).eval(), X)
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("MD002", "confirmed")
    assert "only the candidate draws random numbers" in found.causes[0].says
    assert found.causes[0].remedy is not None and "smooth = False" in found.causes[0].remedy.code


def test_it_is_named_where_the_reference_alone_draws() -> None:
    reference, candidate = Noisy(True).eval(), Noisy(False).eval()
    found = compare(lambda: reference(X), lambda: candidate(X))
    assert [(cause.code, cause.status) for cause in found.causes][:1] == [("MD002", "confirmed")]
    assert "only the reference draws random numbers" in found.causes[0].says


def test_a_flag_that_does_more_than_draw_is_not_called_random_numbers() -> None:
    reference, candidate = Noisy(False, 1.5).eval(), Noisy(True, 1.5).eval()
    found = compare(lambda: reference(X), lambda: candidate(X))
    assert found.verdict is Verdict.SEMANTIC
    assert ("MD002", "confirmed") not in {(cause.code, cause.status) for cause in found.causes}
