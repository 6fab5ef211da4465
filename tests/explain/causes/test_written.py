"""A cache of a fixed size that is written at another place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.records import Verdict

GENERATOR = torch.Generator().manual_seed(11)
TOKENS = torch.randn(7, 12, generator=GENERATOR)
Q, K, V = (torch.randn(12, 12, generator=GENERATOR) * 0.4 for _ in range(3))


class Cached(torch.nn.Module):
    """One token beside six, in caches of nine places: made in the run, or buffers of the model."""

    def __init__(self, late: int, of_model: bool, factor: float = 1.0) -> None:
        super().__init__()
        self.of_model, self.where, self.factor = of_model, slice(6 + late, 7 + late), factor
        self.register_buffer("keys", torch.zeros(9, 12))
        self.register_buffer("values", torch.zeros(9, 12))

    def forward(self, x: Any) -> Any:
        keys, values = (self.keys, self.values) if self.of_model else (torch.zeros(9, 12), torch.zeros(9, 12))
        keys[:6], values[:6] = x[:6] @ K, x[:6] @ V
        keys[self.where], values[self.where] = x[6:] @ K, x[6:] @ V
        scores = (x[6:] @ Q @ keys.T / 12**0.5 * self.factor).masked_fill(torch.arange(9) > 6, -torch.inf)
        return torch.softmax(scores, -1) @ values


def pair(late: int, of_model: bool = False, factor: float = 1.0) -> tuple[Any, Any]:
    reference, candidate = Cached(0, of_model), Cached(late, of_model, factor)
    return lambda: reference(TOKENS), lambda: candidate(TOKENS)


@pytest.mark.parametrize("late", [1, -1])
def test_a_cache_that_is_written_at_another_place_is_named_and_undone_both_ways(late: int) -> None:
    found = compare(*pair(late))
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("FO006", "confirmed")
    assert f"writes into [{6 + late}, :] of its tensor, in the reference into [6, :]" in (
        found.causes[0].evidence[0].statement
    )


def test_a_cache_that_the_model_holds_is_named_as_well() -> None:
    found = compare(*pair(1, of_model=True))
    assert found.verdict is Verdict.SEMANTIC
    assert (found.causes[0].code, found.causes[0].status) == ("FO006", "confirmed")


def test_another_factor_on_a_cache_written_alike_is_not_called_so() -> None:
    found = compare(*pair(0, factor=1.2))
    assert found.verdict is Verdict.SEMANTIC
    assert "FO006" not in {cause.code for cause in found.causes}


def test_one_write_elsewhere_is_one_cause_at_several_origins() -> None:
    """What reads the whole tensor afterwards differs by that write alone: the same experiment is no second proof."""
    values, step = torch.randn(28, generator=GENERATOR), torch.randn(28, generator=GENERATOR)

    def decayed(start: int) -> torch.Tensor:
        flat = values.clone()
        flat[start : start + 8].mul_(0.9)
        flat.sub_(step, alpha=0.1)
        return flat

    found = compare(lambda: decayed(10), lambda: decayed(8))
    assert found.verdict is Verdict.SEMANTIC
    confirmed = [cause for cause in found.causes if cause.status == "confirmed"]
    assert len({cause.interventions for cause in confirmed}) == len(confirmed) == 1
