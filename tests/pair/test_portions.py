"""Micro-batches whose gradients add up against one batch: steps are paired by updates, and a part's loss with nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import whydiff
from whydiff.capturing.store import open_trace
from whydiff.pair.align import align
from whydiff.pair.portions import of_portions
from whydiff.records import Verdict

Train = Callable[[], None]


def training(
    micro: int, *, kept: int | None = None, by_hand: bool = False, looks: bool = False, normed: bool = False
) -> Train:
    """Two steps, each on a batch in so many parts; of which only the first ones are kept, or with a look in between."""

    def train() -> None:
        torch.manual_seed(0)
        between = torch.nn.BatchNorm1d(16) if normed else torch.nn.Tanh()
        model = torch.nn.Sequential(torch.nn.Linear(12, 16), between, torch.nn.Linear(16, 5))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in zip(torch.randn(2, 8, 12), torch.randn(2, 8, 5), strict=True):
            model.zero_grad()
            for part, wanted in list(zip(x.chunk(micro), y.chunk(micro), strict=True))[:kept]:
                loss = torch.nn.functional.mse_loss(model(part), wanted) / micro
                loss.backward()
                loss.item()
            if looks:
                with torch.no_grad():
                    model(x)
            if not by_hand:
                optimizer.step()
                continue
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.1 * p.grad

    return train


@pytest.fixture
def sides(tmp_path: Path) -> Callable[[Train, Train], list[Path]]:
    def make(*runs: Train) -> list[Path]:
        for name, run in zip(("one", "other"), runs, strict=True):
            with whydiff.capture(tmp_path / name):
                run()
        return [tmp_path / "one", tmp_path / "other"]

    return make


@pytest.mark.parametrize("by_hand", [False, True])
def test_accumulation_is_rounding_and_a_part_s_loss_has_no_counterpart(sides, by_hand: bool) -> None:  # type: ignore[no-untyped-def]
    found = whydiff.compare(*sides(training(1, by_hand=by_hand), training(4, by_hand=by_hand)))
    assert found.verdict is Verdict.ROUNDING
    assert not any("Python" in name for name, _ in found.outputs)
    assert any(count.what == "numbers read out" and count.count == 2 for count in found.not_compared)


@pytest.mark.parametrize("parts", [(2, 4), (4, 2)])
@pytest.mark.parametrize("by_hand", [False, True])
def test_more_and_smaller_micro_batches_are_rounding(sides, parts: tuple[int, int], by_hand: bool) -> None:  # type: ignore[no-untyped-def]
    found = whydiff.compare(*sides(*(training(micro, by_hand=by_hand) for micro in parts)))
    assert found.verdict is Verdict.ROUNDING, found.reason


def test_one_of_more_micro_batches_that_is_left_out_is_another_function(sides) -> None:  # type: ignore[no-untyped-def]
    assert whydiff.compare(*sides(training(2), training(4, kept=3))).verdict is Verdict.SEMANTIC


def test_a_part_that_is_left_out_is_another_function(sides) -> None:  # type: ignore[no-untyped-def]
    assert whydiff.compare(*sides(training(1), training(4, kept=3))).verdict is Verdict.SEMANTIC


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_done_once_in_every_part_is_no_update_that_the_other_side_leaves_out(sides, turned: bool) -> None:  # type: ignore[no-untyped-def]
    runs = training(1, normed=True), training(2, normed=True)
    found = whydiff.compare(*sides(*(runs[::-1] if turned else runs)))
    assert found.verdict is Verdict.SEMANTIC
    assert "native_batch_norm" in str(found.origins[0].site)
    assert [cause.code for cause in found.causes if cause.status in ("confirmed", "located")] == []


def test_a_look_at_the_model_between_updates_takes_no_loss_away(sides) -> None:  # type: ignore[no-untyped-def]
    paths = sides(training(1), training(1, looks=True))
    traces = [open_trace(path) for path in paths]
    found = align(traces[0], traces[1])
    assert not found.unpaired_reference
    assert of_portions(traces[0], traces[1], found) == (frozenset(), frozenset())
    assert any("Python" in name for name, _ in whydiff.compare(*paths).outputs)
