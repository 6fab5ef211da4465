"""How many times a comparison executes a program: every replay of a large model costs as much as a run of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.adapters import for_target
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.lifting import LiftedExecutor
from whydiff.capturing.store import save
from whydiff.records import Verdict

MOST = 20
"""Leaves room for a proof in both directions below the 25 of the contract."""

GENERATOR = torch.Generator().manual_seed(0)
X, W = torch.randn(4, 8, generator=GENERATOR), torch.randn(8, 8, generator=GENERATOR)


def program(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """17 calls and a return."""

    def run(x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(x @ W) * factor + 1
        h = torch.tanh(torch.tanh(h).sin().cos() @ W).exp().mean(-1, keepdim=True)
        return h - torch.sigmoid(x) * 2 + x.abs().sqrt()

    return run


class Scaled(torch.nn.Module):
    """The same with the constant as an attribute."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return program(self.factor)(x)


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Executor]]:
    """Every executor that executes a call, once."""
    seen: list[Executor] = []
    for kind in (Executor, LiftedExecutor):
        execute = kind.execute

        def counted(self: Any, call: Any, _execute: Any = execute, **options: Any) -> str:
            if not any(self is one for one in seen):
                seen.append(self)
            return str(_execute(self, call, **options))

        monkeypatch.setattr(kind, "execute", counted)
    yield seen


@pytest.mark.parametrize("make", [program, Scaled], ids=["argument", "attribute"])
def test_one_differing_constant_takes_few_replays(
    make: Callable[[float], Any], replays: list[Executor], tmp_path: Path
) -> None:
    reference, candidate = make(0.5), make(0.6)
    with torch.no_grad():
        traces = [for_target(side).run(side, (X,), {}).capture() for side in (reference, candidate)]
        assert len(traces[0].calls) == 18
        diagnosis = whydiff.compare(reference, candidate, X)
    assert diagnosis.verdict is Verdict.SEMANTIC
    assert [cause.status for cause in diagnosis.causes] == ["confirmed"]
    live = len(replays)
    assert 0 < live <= MOST
    replays.clear()
    paths = [tmp_path / "reference.trace", tmp_path / "candidate.trace"]
    for path, trace in zip(paths, traces, strict=True):
        save(trace, path, payloads="all")
    assert whydiff.compare(*paths).verdict is Verdict.SEMANTIC
    assert 0 < len(replays) <= MOST
