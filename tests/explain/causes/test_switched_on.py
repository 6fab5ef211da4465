"""A mode or a setting that switches draws on, while the side that draws stands elsewhere with its generator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from whydiff.pipeline import compare
from whydiff.report.answer import answer

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(5))


class Net(torch.nn.Module):
    def __init__(self, noisy: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = torch.nn.Linear(8, 8), torch.nn.Dropout(0.25), torch.nn.Linear(8, 4)
        self.noisy = noisy

    def forward(self, x: Any) -> Any:
        hidden = self.drop(torch.tanh(self.first(x)))
        return self.last(torch.nn.functional.dropout(hidden, 0.25, training=self.noisy))


def seeded(net: Any) -> None:
    torch.manual_seed(7)


def sampled(net: Any) -> None:
    torch.multinomial(torch.ones(6), 2)


def rollout(net: Any) -> None:
    torch.multinomial(net(2 * X).softmax(-1), 2)


def run(net: Net, before: Callable[[Any], None]) -> Any:
    def target() -> Any:
        with torch.no_grad():
            before(net)
            return net(X)

    return target


@pytest.mark.parametrize("before", [seeded, sampled, rollout])
@pytest.mark.parametrize("code", ["MD001", "MD002"])
def test_what_is_switched_on_draws_from_the_state_of_the_side_that_draws(code: str, before: Any) -> None:
    on = Net(False).train() if code == "MD001" else Net(True).eval()
    off = Net(False).eval()
    found = compare(lambda: off(X), run(on, before))
    assert [(c.code, c.status) for c in found.causes if not c.inert] == [(code, "confirmed")]
    assert "tried: all 16 numbers agree" in answer(found).fix


def test_the_fix_says_that_a_mode_alone_does_not_draw_the_same() -> None:
    off = Net(False)
    on, off = off.train(), copy.deepcopy(off).eval()
    found = compare(run(on, sampled), lambda: off(X))
    assert [(c.code, c.status) for c in found.causes] == [("MD001", "confirmed")]
    assert "seed both there (tried: all 16 numbers agree)" in answer(found).fix
    remedy = found.causes[0].remedy
    assert remedy is not None and remedy.code.endswith("the same seed\n") and not remedy.carried_out


class Seeded(Net):
    """It seeds itself, from an attribute."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__(False)
        self.drop.p, self.seed = rate, seed

    def forward(self, x: Any) -> Any:
        torch.manual_seed(self.seed)
        return super().forward(x)


def test_a_seed_that_the_program_sets_is_part_of_what_was_tried() -> None:
    found = compare(Seeded(0.5, 0), Seeded(0.0, 1), X)
    assert {c.site for c in found.causes if not c.inert} == {"drop.p", "seed"}
    assert all(c.remedy is not None and not c.remedy.carried_out for c in found.causes)
    assert all(e.left == "others" for c in found.causes for e in c.experiments if e.direction == "take_away")
    assert "(tried: with the other causes all 16 numbers agree)" in answer(found).fix
    assert "may act, undecided (-v): seed" in answer(found).besides


def test_a_mode_beside_another_rate_of_what_it_switches_is_not_all() -> None:
    on, off = Net(False).train(), Net(True).eval()  # the other draw acts in the reference
    found = compare(lambda: off(X), run(on, sampled))
    alone = [c for c in found.causes if c.code == "MD001" and any(e.left == "nothing" for e in c.experiments)]
    assert alone == []
