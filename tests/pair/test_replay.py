"""One replay: what every return gave, and hooks on the way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.adapters import Executor, for_framework
from whydiff.capturing.store import open_trace
from whydiff.pair.lockstep import numbered_alike
from whydiff.pair.replay import replay, returns
from whydiff.records import Alignment, Call, Pair, Slot, Trace, Verdict


@pytest.fixture
def two_calls(tmp_path: Path) -> tuple[Path, Path]:
    """Two models called one after the other in one capture; one weight of the first differs."""
    torch.manual_seed(0)
    first, second = torch.nn.Linear(8, 4).eval(), torch.nn.Linear(8, 4).eval()
    other = copy.deepcopy(first)
    with torch.no_grad():
        other.weight[0, 0] += 1e-3
    x = torch.randn(2, 8)
    for name, model in (("reference", first), ("candidate", other)):
        with torch.no_grad(), whydiff.capture(tmp_path / f"{name}.trace", payloads="all"):
            model(x)
            second(x)
    return tmp_path / "reference.trace", tmp_path / "candidate.trace"


def test_a_difference_of_an_earlier_return_is_seen_and_proven(two_calls: tuple[Path, Path]) -> None:
    diagnosis = whydiff.compare(*two_calls)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert [(c.code, c.status) for c in diagnosis.causes] == [("ST001", "confirmed")]
    assert [(slot, c.status) for slot, c in diagnosis.outputs] == [("output", "differs"), ("output@1", "agrees")]
    experiments = diagnosis.causes[0].experiments
    assert [experiment.direction for experiment in experiments] == ["take_away", "put_in"]
    assert all(experiment.before and experiment.after == 0 for experiment in experiments)


def executor_of(path: Path) -> tuple[Trace, Executor]:
    trace = open_trace(path)
    return trace, for_framework(trace.framework).executor(trace)


def test_every_return_is_kept_under_its_number(two_calls: tuple[Path, Path]) -> None:
    trace, executor = executor_of(two_calls[0])
    found = replay(executor)
    assert list(found.outputs) == [Slot(0, "output"), Slot(1, "output")]
    assert found.failed == ()
    assert not (found.outputs[Slot(0, "output")].bits == found.outputs[Slot(1, "output")].bits).all()
    assert list(returns(trace.calls).values()) == [0, 1]


def test_hooks_see_a_call_before_and_after_it_and_the_end_is_where_it_is_told(two_calls: tuple[Path, Path]) -> None:
    trace, executor = executor_of(two_calls[0])
    end = next(iter(returns(trace.calls)))
    seen: list[tuple[str, int]] = []
    watched: dict[str, Any] = {
        "before": lambda _, call: seen.append(("before", call.index)),
        "watch": lambda _, call: seen.append(("after", call.index)),
    }
    found = replay(executor, until=end, **watched)
    assert seen == [(when, i) for i in range(end) for when in ("before", "after")] + [("before", end)]
    assert found.outputs == {}


def test_a_call_that_fails_is_named(two_calls: tuple[Path, Path]) -> None:
    trace, executor = executor_of(two_calls[0])
    last = next(call for call in reversed(trace.calls) if call.kind == "compute")

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(executor, name)

        def execute(self, call: Call) -> str:
            return "no kernel" if executor.execute(call) or call.index == last.index else ""

    assert [(call.index, why) for call, why in replay(Failing()).failed] == [(last.index, "no kernel")]  # type: ignore[arg-type]


def test_returns_of_a_pair_have_one_number(two_calls: tuple[Path, Path]) -> None:
    trace, executor = executor_of(two_calls[0])
    at = list(returns(trace.calls))
    outputs = replay(executor).outputs
    only_the_second = Alignment((Pair(at[0], at[1]),))  # the candidate's second return is the reference's first
    found = numbered_alike(outputs, trace, trace, only_the_second)
    assert found == {Slot(0, "output"): outputs[Slot(1, "output")]}
