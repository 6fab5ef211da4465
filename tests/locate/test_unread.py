"""Draws that are written over before they are read change no output; such as are read, in part or before, do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.capturing.store import open_side
from whydiff.locate.localize import localize
from whydiff.locate.unread import unread
from whydiff.pair.align import align
from whydiff.pair.scripts import with_ends
from whydiff.records import Diagnosis, Verdict
from whydiff.report.answer import answer

X = torch.linspace(-1, 1, 32).reshape(4, 8)
GIVEN = torch.linspace(0, 1, 64).reshape(8, 8).sin()


def loaded() -> torch.Tensor:
    return torch.empty(8, 8).uniform_().copy_(GIVEN)


def loaded_in_parts() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    weight[:3].copy_(GIVEN[:3])
    weight[3:].copy_(GIVEN[3:])
    return weight


def loaded_after_idle_use() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    weight.mul_(2).add_(torch.zeros_like(weight))
    return weight.copy_(GIVEN)


def loaded_module() -> torch.Tensor:
    layer = torch.nn.Linear(8, 8, bias=False)
    layer.load_state_dict({"weight": GIVEN})
    return layer.weight.detach()


def loaded_in_part() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    weight[:7].copy_(GIVEN[:7])
    return weight


def loaded_in_columns() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    weight[:, ::2].copy_(GIVEN[:, ::2])
    return weight


def loaded_after_use() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    kept = weight.sum()
    return weight.copy_(GIVEN) + kept


def loaded_after_python_has_it() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    kept = weight.sum().item()
    return weight.copy_(GIVEN) * kept


def loaded_with_itself() -> torch.Tensor:
    weight = torch.empty(8, 8).uniform_()
    kept = weight.clone()
    return weight.copy_(kept * GIVEN)


def captured(at: Path, weight: Callable[[], torch.Tensor], use: Callable[[torch.Tensor], torch.Tensor]) -> str:
    model = torch.nn.Identity()
    with whydiff.capture(str(at)):
        model(use(weight()))
    return str(at)


def in_whole(weight: torch.Tensor) -> torch.Tensor:
    return X @ weight


def by_halves(weight: torch.Tensor) -> torch.Tensor:
    return X[:, :4] @ weight[:4] + X[:, 4:] @ weight[4:]


def shifted(weight: torch.Tensor) -> torch.Tensor:
    return X @ weight + 0.1


CHANGES_NOTHING = (loaded, loaded_in_parts, loaded_after_idle_use, loaded_module)
MATTERS = (loaded_in_part, loaded_in_columns, loaded_after_use, loaded_after_python_has_it, loaded_with_itself)


@pytest.mark.parametrize("weight", [*CHANGES_NOTHING, *MATTERS])
def test_a_draw_changes_nothing_if_all_of_it_is_written_over_first(
    tmp_path: Path, weight: Callable[[], torch.Tensor]
) -> None:
    sides = [open_side(captured(tmp_path / name, weight, in_whole)) for name in ("a", "b")]
    ours, theirs, alignment = with_ends(*sides, align(*sides))
    found, _ = localize(ours, theirs, alignment, None)
    drawn = {i for i, origin in enumerate(found.origins) if origin.site.op == "uniform_"}
    assert drawn
    assert unread(ours, theirs, found.origins) == (drawn if weight in CHANGES_NOTHING else set())


def told(at: Path, weight: Callable[[], torch.Tensor], use: Callable[[torch.Tensor], torch.Tensor]) -> Diagnosis:
    return whydiff.compare(captured(at / "a", weight, in_whole), captured(at / "b", weight, use))


def test_it_does_not_decide_the_verdict_and_is_counted(tmp_path: Path) -> None:
    found = told(tmp_path, loaded, by_halves)
    said = answer(found)
    assert found.verdict is Verdict.ROUNDING
    assert "uniform_" not in said.where
    assert "1 place that changes no output" in said.besides


def test_what_is_not_shown_stays_semantic_and_so_does_another_function(tmp_path: Path) -> None:
    partly = told(tmp_path / "part", loaded_in_part, by_halves)
    assert partly.verdict is Verdict.SEMANTIC
    assert "uniform_" in answer(partly).where
    other = told(tmp_path / "other", loaded, shifted)
    assert other.verdict is Verdict.SEMANTIC
    assert "uniform_" not in answer(other).where
