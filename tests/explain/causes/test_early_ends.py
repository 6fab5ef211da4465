"""Walks that have seen enough end, and say what they would have said at the end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.explain.case import Case
from whydiff.explain.causes import _order, or001
from whydiff.explain.causes.or001 import ReductionOrder
from whydiff.explain.local_test import joined
from whydiff.pair.lockstep import Lockstep
from whydiff.pipeline import compare
from whydiff.records import Cause, Remedy, Verdict

MANY = 12


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Stage of a walk → calls that it executed, one number per walk."""
    walks: dict[str, list[int]] = {"replay both runs": [], "resynchronise": [], "origins together": []}
    walk = Lockstep.walk

    def counting(self: Lockstep, progress: Any = None, stage: str = "replay") -> Any:
        found = walks.setdefault(stage, [])
        found.append(0)
        place = len(found) - 1
        for pair in walk(self, progress, stage):
            found[place] += 1
            yield pair

    monkeypatch.setattr(Lockstep, "walk", counting)
    return walks


def norms(eps: float) -> Any:
    def run(x: torch.Tensor) -> torch.Tensor:
        for _ in range(MANY):
            x = F.layer_norm(x, (16,), None, None, eps)
        return x

    return run


@pytest.mark.parametrize("enough", [3, MANY, MANY + 1])
def test_visits_end_when_enough_is_seen(enough: int, executed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def detect(self: Any, case: Case) -> Iterator[Cause]:
        visited: list[int] = []
        executed["resynchronise"].clear()
        left = _order.visit_origins(
            case, lambda *calls: True, lambda step, r, c: visited.append(r.index), lambda: len(visited) == enough
        )
        told.append((visited, [r.index for r, _ in left], executed["resynchronise"][0]))
        yield from ()

    monkeypatch.setattr(_order, "explained_calls", lambda case: set())
    monkeypatch.setattr(ReductionOrder, "detect", detect)
    compare(norms(1e-5), norms(1e-3), torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    ((visited, left, walked),) = told
    assert visited + left == list(range(MANY))
    assert len(visited) == min(enough, MANY)
    assert walked <= enough + 1  # the walk ends at the next pair


def test_a_kind_that_was_proven_is_only_counted(executed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every norm is of one kind: the walk ends at the first, and the others are counted."""
    proofs: list[Any] = []
    causes: list[int] = []
    proof = SimpleNamespace(differing=True, revealed=True)
    monkeypatch.setattr(_order, "explained_calls", lambda case: set())
    monkeypatch.setattr(or001, "prove", lambda *sides: proofs.append(sides) or proof)

    def cause(rule: Any, site: str, proof: Any, alike: int) -> Cause:
        causes.append(alike)
        return Cause(rule.code, rule.name, site, Verdict.INCONCLUSIVE, (), Remedy("none"), reason="only counted here")

    monkeypatch.setattr(or001, "_cause", cause)
    compare(norms(1e-5), norms(1e-3), torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    assert (len(proofs), causes) == (1, [MANY - 1])


def test_joints_at_the_beginning_are_held_without_the_rest(executed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale before a product on one side and after it on the other; then a long tail that no joint reads."""
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))

    def model(before: bool) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            y = (x * 3) @ weight if before else (x @ weight) * 3
            for _ in range(MANY):
                y = F.gelu(y + 1)
            return y

        return run

    held: list[int] = []
    examined = joined._Held.examined

    def counting(self: Any, number: int) -> Any:
        found = examined(self, number)
        held.append(found is not None)
        return found

    monkeypatch.setattr(joined._Held, "examined", counting)
    compare(model(True), model(False), torch.randn(4, 16, generator=torch.Generator().manual_seed(2)))
    assert executed["origins together"] and max(executed["origins together"]) < max(executed["resynchronise"])
    assert any(held)
