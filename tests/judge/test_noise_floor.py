"""When it matters how much rounding alone could make."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from whydiff.capturing.adapters import contract, for_framework
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.explain.case import Case
from whydiff.judge.noise_floor import in_question, noise_floor
from whydiff.locate.localize import localize
from whydiff.locate.rows import Rows
from whydiff.numbers.pieces import mean_and_excess
from whydiff.pair.align import align
from whydiff.records import Cause, Payload, Slot, Verdict


def case_of(reference: Callable[..., Any], candidate: Callable[..., Any], *inputs: torch.Tensor) -> Case:
    traces = [for_framework("torch").run(side, inputs, {}).capture(level="op") for side in (reference, candidate)]
    alignment = align(*traces)
    return Case(traces[0], traces[1], alignment, localize(*traces, alignment, None)[0], (None, None))


PROVEN = Cause("FO003", "scale-differs", "a:mul#0", Verdict.SEMANTIC, status="confirmed")


@pytest.mark.parametrize("verdict", [Verdict.SEMANTIC, Verdict.PRECISION, Verdict.UNSTABLE])
def test_it_does_not_where_a_cause_of_more_than_rounding_is_proven(verdict: Verdict) -> None:
    assert not in_question(verdict, (replace(PROVEN, verdict=verdict),))


@pytest.mark.parametrize(
    ("verdict", "causes"),
    [
        (Verdict.SEMANTIC, ()),
        (Verdict.SEMANTIC, (replace(PROVEN, status="refuted"),)),
        (Verdict.SEMANTIC, (replace(PROVEN, inert=True),)),
        (Verdict.UNSTABLE, (PROVEN,)),
        (Verdict.INCONCLUSIVE, (PROVEN,)),
        (Verdict.ROUNDING, (replace(PROVEN, verdict=Verdict.ROUNDING),)),
        (Verdict.PRECISION, (replace(PROVEN, verdict=Verdict.ROUNDING),)),
    ],
)
def test_it_does_for_rounding_and_where_nothing_of_the_verdict_is_proven(
    verdict: Verdict, causes: tuple[Cause, ...]
) -> None:
    assert in_question(verdict, causes)


def test_a_large_output_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    ours = generator.standard_normal((3, 41)).astype(np.float32)
    theirs = ours + generator.standard_normal(ours.shape).astype(np.float32) * 1e-6
    ours[1, 7], theirs[0, 5] = np.inf, np.nan
    reference, rounded = Payload(ours, "float32"), Payload(theirs, "float32")
    module = sys.modules["whydiff.judge.noise_floor"]

    def found() -> tuple[tuple[float, float], float]:
        distance = mean_and_excess(reference, rounded, 1.3e-6)
        return distance, module._floor(Slot(0, "x"), [(1e-7, 1e-6)] * 3, reference).magnitude

    whole = found()
    monkeypatch.setattr("whydiff.numbers.pieces.PIECE", 10)
    distance, magnitude = found()
    assert distance == whole[0] and math.isclose(magnitude, whole[1], rel_tol=1e-12)
    exact = ours.astype(np.float64)
    assert math.isclose(magnitude, np.sqrt(np.mean(exact[np.isfinite(exact)] ** 2)), rel_tol=1e-12)
    with np.errstate(invalid="ignore"):
        excess = np.abs(theirs.astype(np.float64) - exact) - 1.3e-6 * np.abs(exact)
    assert distance[1] == excess[np.isfinite(excess)].max() > 0
    empty = Payload(np.zeros((0, 3), np.float32), "float32")
    assert mean_and_excess(empty, empty, 1e-6) == (0.0, 0.0)
    assert module._floor(Slot(0, "x"), [(0, 0)] * 3, empty).magnitude == 0


@pytest.fixture(scope="module")
def case() -> Case:
    torch.manual_seed(0)
    table = torch.randn(64, 48, dtype=torch.bfloat16)

    def program(x: torch.Tensor, parts: int) -> dict[str, torch.Tensor]:
        y = sum((x[:, half] @ table[half] for half in torch.arange(64).chunk(parts)), torch.zeros(()).bfloat16())
        return {"y": torch.tanh(y), "z": y.float()[:, :1].double(), "n": y.argmax(-1)}

    return case_of(lambda x: program(x, 1), lambda x: program(x, 4), torch.randn(32, 64, dtype=torch.bfloat16))


def test_no_replays_output_comes_to_the_host(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    brought: list[int] = []
    known = Executor.payload
    monkeypatch.setattr(Executor, "payload", lambda self, value: brought.append(value.numel()) or known(self, value))
    found = noise_floor(case, runs=3)
    assert [floor.slot.name for floor in found.floors] == ["y", "z"] and not brought
    assert all(floor.mean_abs > 0 and floor.runs == 3 for floor in found.floors)


def test_a_floor_is_that_of_the_host_copies(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = noise_floor(case, runs=3)
    for name in ("mean_and_excess", "adopt_beside"):
        monkeypatch.setattr(Executor, name, getattr(contract.Executor, name))
    for one, other in zip(found.floors, noise_floor(case, runs=3).floors, strict=True):
        assert one.tolerance == other.tolerance and one.mean_abs == pytest.approx(other.mean_abs, rel=1e-12)


def test_rows_that_are_left_out_have_no_part_in_a_floor(case: Case) -> None:
    slot = case.localization.returned[0][0]
    keep = np.arange(32) < 4
    fewer = replace(case, localization=replace(case.localization, rows={slot: Rows(slot, keep, "they are padding")}))
    found, whole = noise_floor(fewer, runs=3).floors, noise_floor(case, runs=3).floors
    assert found[0].mean_abs != whole[0].mean_abs and found[1] == whole[1]
