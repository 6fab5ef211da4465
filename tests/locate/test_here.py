"""Two traces read on a processor whose last bits are not those that were recorded: the same origins as where they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from whydiff.capturing.adapters import for_framework, for_target
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.store import TraceWriter
from whydiff.pipeline import Options, compare
from whydiff.records import Call

X = torch.linspace(0.1, 2.0, 24).reshape(4, 6)
TORCH = for_framework("torch")
Program = Callable[..., Any]


class Scaled(torch.nn.Module):
    """One op that reads state, and an argument."""

    def __init__(self, weight: float, alpha: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((6,), weight))
        self.alpha = alpha

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.add(x, self.weight, alpha=self.alpha)


class InPlace(Scaled):
    """The same, over what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul(2.0).add_(self.weight, alpha=self.alpha)


def begun(factor: float, then: Program) -> Program:
    """A program with one origin, and what it goes on with."""
    return lambda x: then(x.mul(factor))


def twice(function: Program) -> tuple[Program, Program]:
    """The same behind the origin."""
    return begun(2.0, function), begun(2.5, function)


PAIRS = {
    "an op": twice(lambda y: y.log1p()),
    "an op in place": twice(lambda y: y.log1p_().exp()),
    "an op in place on a part": twice(lambda y: torch.stack([y[:2].exp_(), y[2:].add(y[:2])])),
    "several ops": twice(lambda y: y.log1p().exp().sum(-1)),
    "a list of tensors": twice(lambda y: torch._foreach_exp([y, y + 1])[1]),
    "two results": twice(lambda y: torch.frexp(y.exp())[0]),
    "other state": (Scaled(1.0), Scaled(2.0)),
    "other state in place": (InPlace(1.0), InPlace(2.0)),
    "other state behind an origin": (begun(2.0, Scaled(1.0)), begun(2.5, Scaled(2.0))),
    "ops of one side alone that change nothing": (
        begun(2.0, lambda y: y.log1p().neg().exp()),
        begun(2.5, lambda y: y.log1p().mul(1.0).neg().exp()),
    ),
    "a region that carries out the same": (
        begun(2.0, lambda y: y.neg().add(1.0).sin()),
        begun(2.5, lambda y: torch.rsub(y, 1.0).sin()),
    ),
    "such a region behind an op that rounds nothing": (
        begun(2.0, lambda y: y.abs().neg().add(1.0).sin()),
        begun(2.5, lambda y: torch.rsub(y.abs(), 1.0).sin()),
    ),
    "such a region behind an op that alone is given another value": (
        lambda x: x.mul(2.0).abs().neg().add(1.0).sin(),
        lambda x: torch.rsub(x.abs(), 1.0).sin(),
    ),
    "such a region behind an op that rounds": (
        begun(2.0, lambda y: y.log1p().neg().add(y).sin()),
        begun(2.5, lambda y: y.sub(y.log1p()).sin()),
    ),
}
DIFFERENT = {
    "another argument": (begun(2.0, lambda y: y.add(1.0).exp()), begun(2.5, lambda y: y.add(1.5).exp())),
    "another argument in place": (
        begun(2.0, lambda y: y.exp().add_(1.0).log1p()),
        begun(2.5, lambda y: y.exp().add_(1.5).log1p()),
    ),
    "another function": (begun(2.0, lambda y: y.sin().exp()), begun(2.5, lambda y: y.cos().exp())),
    "state and op": (Scaled(1.0, 1.0), Scaled(2.0, 3.0)),
    "a region": (begun(2.0, lambda y: y.sin().neg().exp()), begun(2.5, lambda y: y.sin().mul(1.5).neg().exp())),
}

EXACT = ("abs", "neg", "mul", "clone", "stack")


def recorded(folder: Path, sides: tuple[Program, Program]) -> list[str]:
    paths = [str(folder / name) for name in ("reference.trace", "candidate.trace")]
    for path, side in zip(paths, sides, strict=True):
        run = for_target(side, (X,)).run(side, (X,), {})
        with TraceWriter(path, framework="torch", level="op", environment=TORCH.environment()) as writer:
            writer.close(**run.record(writer, payloads="all"))
    return paths


def origins(sides: Any) -> list[tuple[str, str, str]]:
    found = compare(*sides, options=Options(trust=True))
    assert found.accounted
    return [(str(one.site), one.kind, one.verdict.value) for one in found.origins]


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every op that rounds gives other last bits, as another processor's does."""
    carried_out = Executor.carried_out

    def other(self: Executor, call: Call, reads: Any) -> list[torch.Tensor]:
        outputs = carried_out(self, call, reads)
        rounds = call.target.split(".")[1] not in EXACT
        for one in outputs if rounds else ():
            if one.dtype is torch.float32:
                one.copy_(torch.nextafter(one, torch.tensor(torch.inf)))
        return outputs

    monkeypatch.setattr(Executor, "carried_out", other)


@pytest.mark.parametrize("sides", [*PAIRS.values(), *DIFFERENT.values()], ids=[*PAIRS, *DIFFERENT])
def test_a_readers_processor_is_no_origin(
    sides: tuple[Program, Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = recorded(tmp_path, sides)
    there = origins(paths)
    assert len(there) >= 1
    elsewhere(monkeypatch)
    assert origins(paths) == there


@pytest.mark.parametrize("other", [InPlace, Scaled])
def test_where_both_runs_were_the_reader_has_nothing_to_add(other: type[Scaled]) -> None:
    found = compare(other(1.0), other(2.0), X)
    assert [one.kind for one in found.origins] == ["state"]
    found = compare(other(1.0, 1.0), other(2.0, 3.0), X)
    assert [one.kind for one in found.origins] == ["state", "implementation"]
