"""Experiments in both directions: a cause taken out of the candidate, and put into the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import open_trace, save
from whydiff.explain.case import Case
from whydiff.locate.localize import localize
from whydiff.pair.align import align
from whydiff.records import Intervention, Slot

GENERATOR = torch.Generator().manual_seed(0)
X, OTHER = (torch.randn(4, 8, generator=GENERATOR) for _ in range(2))


def linear(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Linear(8, 4).eval()


class Norm(torch.nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (8,), eps=self.eps)


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2 if self.training else x.sin()


def reads(first: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(x: torch.Tensor) -> torch.Tensor:
        a = torch.sin(x)
        b = torch.cos(a)
        return torch.tanh(a if first else b) + b

    return run


@dataclass
class Pair:
    """Both programs and inputs, and what takes the difference out of the candidate."""

    reference: Any
    candidate: Any
    take_away: tuple[Intervention, ...]
    inputs: tuple[torch.Tensor, torch.Tensor] = (X, X)
    vanish: bool = True  # whether no origin remains either way (an unpaired conversion is one)


PAIRS = {
    "restore-state": Pair(linear(0), linear(1), tuple(Intervention("restore-state", n) for n in ("weight", "bias"))),
    "restore-input": Pair(torch.sin, torch.sin, (Intervention("restore-input", "args[0]"),), (X, OTHER)),
    "set-scalar": Pair(Norm(1e-5), Norm(1e-1), (Intervention("set-scalar", "eps", 1e-5),)),
    "set-argument": Pair(
        lambda x: torch.nn.functional.leaky_relu(x, 0.1),
        lambda x: torch.nn.functional.leaky_relu(x, 0.3),
        (Intervention("set-argument", ":leaky_relu#0", (1, 0.1)),),
    ),
    "set-argument, left out": Pair(
        lambda x: torch.nn.functional.leaky_relu(x),
        lambda x: torch.nn.functional.leaky_relu(x, 0.3),
        (Intervention("set-argument", ":leaky_relu#0", (1, 0.01)),),
    ),
    "read-from": Pair(
        reads(True), reads(False), (Intervention("read-from", ":tanh#0.read.0", (":sin#0.output", (4, 8), (8, 1), 0)),)
    ),
    "set-dtype": Pair(
        lambda x: torch.softmax(x, -1) * 3,
        lambda x: (torch.softmax(x.bfloat16(), -1) * 3).float(),
        (
            Intervention("set-dtype", ":_to_copy#0", "float32"),
            Intervention("set-dtype", ":_softmax#0", "float32"),
            Intervention("set-dtype", ":mul#0", "float32"),
            Intervention("set-dtype", ":_to_copy#1", "float32"),
        ),
        vanish=False,
    ),
    "permute": Pair(
        lambda x: torch.tanh(torch.sin(x)),
        lambda x: torch.tanh(torch.sin(x).t()),
        (Intervention("permute", ":tanh#0.read.0", "a b -> b a"),),
        (torch.outer(X[0], X[1]), torch.outer(X[0], X[1])),
    ),
    "scale": Pair(
        lambda x: torch.tanh(torch.sin(x) * 2.0),
        lambda x: torch.tanh(torch.sin(x) * 8.0),
        (Intervention("scale", ":mul#0.output", 0.25),),
    ),
    "replace-op": Pair(
        lambda x: torch.tanh(torch.sin(x)),
        lambda x: torch.sigmoid(torch.sin(x)),
        (Intervention("replace-op", ":sigmoid#0", ":tanh#0"),),
    ),
    "set-mode": Pair(Doubling().eval(), Doubling().train(), (Intervention("set-mode", "", False),)),
}
LIVE_ONLY = {"set-mode"}


def case_of(pair: Pair, folder: Path | None = None) -> Case:
    """The pair as live runs, or as traces on disk in a folder."""
    adapter = for_framework("torch")
    sides = zip((pair.reference, pair.candidate), pair.inputs, strict=True)
    runs = [adapter.run(target, (x,), {}) for target, x in sides]
    with torch.no_grad():
        traces: list[Any] = [run.capture() for run in runs]
    live: tuple[Any, Any] = (runs[0], runs[1])
    if folder is not None:
        live = (None, None)
        for name, trace in zip(("reference", "candidate"), traces, strict=True):
            save(trace, folder / f"{name}.trace", payloads="all")
        traces = [open_trace(folder / f"{name}.trace") for name in ("reference", "candidate")]
    alignment = align(*traces)
    found, _ = localize(*traces, alignment, None)
    return Case(traces[0], traces[1], alignment, found, live)


@pytest.mark.parametrize("live", [True, False], ids=["live", "disk"])
@pytest.mark.parametrize("name", PAIRS)
def test_a_cause_is_taken_away_and_put_in(name: str, live: bool, tmp_path: Path) -> None:
    pair = PAIRS[name]
    tried = case_of(pair, None if live else tmp_path).experiments
    if name in LIVE_ONLY and not live:
        assert not tried.supports(pair.take_away)
        assert "needs a live run" in tried.try_out(pair.take_away).failed
        return
    before = tried.try_out(())
    assert not before.equal
    assert before.mean_abs
    assert [slot for slot, _ in before.comparisons] == [Slot(0, "output")]
    assert tried.try_out((), on="reference").mean_abs == before.mean_abs
    assert tried.try_out(pair.take_away).equal
    put_in = tried.mirrored(pair.take_away)
    assert put_in is not None
    assert tried.supports(put_in, on="reference")
    assert tried.try_out(put_in, on="reference").equal
    if pair.vanish:
        assert tried.origins_after(pair.take_away) in (None, set())
        assert tried.origins_after(put_in, on="reference") in (None, set())


BETWEEN = 1.5 * X.abs().max()
"""Above what a weight of 1 gives, and not above what a weight of 2 does."""


class Read(torch.nn.Module):
    """A weight of 1 or 2, of which ``output`` makes what is returned."""

    def __init__(self, weight: float, output: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((), weight))
        self.output = output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(x.abs() * self.weight)


@pytest.mark.parametrize(
    ("output", "least", "most"),
    [
        (lambda y: (y - BETWEEN).relu(), 0.2, math.inf),
        (lambda y: y, 0.2, 1.0),
        (lambda y: y * 1e-18 + 1, 0.0, 1e-15),
        (lambda y: y / y.sum(), 0.0, 1e-15),
        (lambda y: y > 0, 0.0, 0.0),
        (lambda y: y > 0.7, math.inf, math.inf),
        (lambda y: torch.where(y > 0.7, float("nan"), 1.0), math.inf, math.inf),
    ],
    ids=["all from zeros", "factor", "absorbed", "a scale that is lost", "the same flags", "other flags", "other NaN"],
)
def test_how_far_a_side_moves_in_float64(output: Callable[[torch.Tensor], Any], least: float, most: float) -> None:
    restored = (Intervention("restore-state", "weight"),)
    experiments = case_of(Pair(Read(1.0, output), Read(2.0, output), restored)).experiments
    for side in ("candidate", "reference"):
        moved = experiments.moves_in_float64(restored, on=side)
        assert moved is not None and least <= moved <= most
        assert experiments.moves_in_float64((), on=side) == 0.0


def test_outcomes_are_remembered() -> None:
    tried = case_of(PAIRS["scale"]).experiments
    assert tried.try_out(PAIRS["scale"].take_away) is tried.try_out(list(PAIRS["scale"].take_away))


def test_a_flag_is_mirrored_by_the_value_that_the_candidate_had(tmp_path: Path) -> None:
    case = case_of(PAIRS["scale"])
    threads = case.candidate.environment.flags["threads"]
    assert case.experiments.mirrored((Intervention("set-flag", "threads", 64),)) == (
        Intervention("set-flag", "threads", threads),
    )


@pytest.mark.parametrize(
    "item",
    [
        Intervention("compile-as", "candidate", "eager"),
        Intervention("set-scalar", "no.such", 1.0),
        Intervention("set-dtype", ":cos#0", "float32"),
        Intervention("scale", ":tanh#7.output", 2.0),
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_not_put_in(item: Intervention) -> None:
    tried = case_of(PAIRS["scale"]).experiments
    assert tried.mirrored((item,)) is None
    assert tried.mirrored((*PAIRS["scale"].take_away, item)) is None
