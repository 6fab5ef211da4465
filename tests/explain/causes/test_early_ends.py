"""Walks that have seen enough end, and say what they would have said at the end."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from whydiff.explain.case import Case
from whydiff.explain.causes import _order, _shape, in002, or001
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


def test_an_op_is_tried_alone_at_its_first_origin_and_the_walk_ends_there(
    executed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def detect(self: Any, case: Case) -> Iterator[Cause]:
        executed["resynchronise"].clear()
        looked = _shape.natures(case, case.localization.origins)
        told.append((len(looked.scales), len(case.localization.origins), executed["resynchronise"]))
        yield from ()

    monkeypatch.setattr(ReductionOrder, "detect", detect)
    compare(norms(1e-5), norms(1e-3), torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    assert told == [(1, MANY, [2])]


@pytest.mark.parametrize(("positions", "walks"), [(False, 0), (True, 1)])
def test_positions_are_looked_for_where_something_is_taken_up_as_such(
    positions: bool, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In runs of two sizes; and the walk ends behind the last place that may hold them."""
    places = torch.randn(8, 16, generator=torch.Generator().manual_seed(3))
    pairs: list[int] = []
    walked: list[int] = []

    def model(start: int, eps: float) -> Any:
        def run(x: torch.Tensor) -> torch.Tensor:
            x = x + F.embedding(torch.arange(start, start + x.shape[1]), places) if positions else x
            return norms(eps)(x)

        return run

    walk_origins = in002.walk_origins

    def counted(step: Lockstep, **named: Any) -> Any:
        execute = step.execute
        step.execute = lambda *calls: walked.append(1) or execute(*calls)
        found = walk_origins(step, **named)
        pairs.append(len(walked))
        return found

    monkeypatch.setattr(in002, "walk_origins", counted)
    one, other = model(0, 1e-5), model(1, 1e-5 if positions else 1e-3)
    x = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    diagnosis = compare(lambda x: one(x[:1]), other, x)
    assert len(pairs) == walks and all(executed < MANY for executed in pairs)
    assert any(cause.code == "IN002" for cause in diagnosis.causes) is positions
