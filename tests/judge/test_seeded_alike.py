"""Runs that draw random numbers which nothing seeds: they agree here, since both begin with the same states."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whydiff
from whydiff.pipeline import compare
from whydiff.records import Diagnosis, Verdict

X = torch.linspace(-1, 1, 32).reshape(4, 8)
WORDS = "began with the same random states and drew from"


def notes(found: Diagnosis) -> list[str]:
    return [note for note in found.notes if WORDS in note]


def by_torch() -> torch.Tensor:
    return X + torch.randn(4, 8)


def by_numpy() -> torch.Tensor:
    return X * torch.from_numpy(np.random.rand(4, 8).astype(np.float32))


def by_python() -> torch.Tensor:
    return X * random.gauss(1.0, 0.1)


def by_many() -> torch.Tensor:
    return X * float(np.random.rand(5000).sum())


@pytest.mark.parametrize(
    ("run", "name", "word"),
    [
        (by_torch, "torch", "PyTorch's"),
        (by_numpy, "numpy", "numpy's"),
        (by_many, "numpy", "numpy's"),
        (by_python, "python", "Python's"),
    ],
)
def test_unseeded_draws_are_told_beside_identical(
    run: Any, name: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(run, lambda: run())
    assert found.verdict is Verdict.IDENTICAL
    assert [side.observer.drew for side in found.sides] == [(name,), (name,)]
    (note,) = notes(found)
    assert f"drew from {word} global generator without seeding it" in note
    found.print()
    assert f"drew from {word} global generator unseeded" in " ".join(capsys.readouterr().out.split())


def seeded(run: Any) -> Any:
    def call() -> torch.Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        result: torch.Tensor = run()
        return result

    return call


@pytest.mark.parametrize("run", [by_torch, by_numpy, by_python, lambda: X.relu()])
def test_what_a_run_seeds_itself_is_not(run: Any) -> None:
    torch.manual_seed(0)
    torch.randn(3)  # the same seed, and another place in its numbers
    found = compare(seeded(run), seeded(run))
    assert found.verdict is Verdict.IDENTICAL
    assert [side.observer.drew for side in found.sides] == [(), ()]
    assert not notes(found)


def test_what_a_run_seeds_as_it_was_already_is_not_called_unseeded(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)  # and nothing is drawn: the run begins with the state that it seeds itself
    found = compare(seeded(by_torch), seeded(by_torch))
    (note,) = notes(found)
    assert "without seeding it, or seeded it as they found it: unseeded, " in note
    found.print()
    assert "unseeded, or seeded as it was already: unseeded, " in " ".join(capsys.readouterr().out.split())


def test_a_generator_of_ones_own_is_no_global_one() -> None:
    def run() -> torch.Tensor:
        return X + torch.randn(4, 8, generator=torch.Generator().manual_seed(3)) + np.random.default_rng(0).random()

    assert not notes(compare(run, lambda: run()))


def test_outputs_that_differ_are_not_explained_by_it() -> None:
    found = compare(by_torch, lambda: by_torch() * 2)
    assert found.verdict is Verdict.SEMANTIC
    assert not notes(found)


def test_jax_programs_that_draw_by_numpy() -> None:
    jnp = pytest.importorskip("jax.numpy")
    found = compare(lambda: jnp.ones(4) * np.random.rand(4), lambda: jnp.ones(4) * np.random.rand(4))
    assert found.verdict is Verdict.IDENTICAL
    assert len(notes(found)) == 1


def test_a_trace_keeps_what_was_drawn_from(tmp_path: Path) -> None:
    from whydiff.capturing.adapters import for_target
    from whydiff.capturing.store import open_trace, save

    run = for_target(by_torch).run(by_torch, (), {})
    trace = run.capture()

    save(replace(trace, observer=run.check(trace)), tmp_path / "a.trace")
    assert open_trace(tmp_path / "a.trace").observer.drew == ("torch",)
    assert len(notes(whydiff.compare(tmp_path / "a.trace", tmp_path / "a.trace"))) == 1


def test_a_generator_that_is_not_known_here_is_called_by_its_name(tmp_path: Path) -> None:
    from whydiff.capturing.adapters import for_target
    from whydiff.capturing.store import save

    trace = for_target(by_torch).run(by_torch, (), {}).capture()
    states = replace(trace.environment, rng={**trace.environment.rng, "another": "0"})
    save(
        replace(trace, environment=states, observer=replace(trace.observer, drew=("another",))),
        tmp_path / "newer.trace",
    )
    (note,) = notes(whydiff.compare(tmp_path / "newer.trace", tmp_path / "newer.trace"))
    assert "drew from another without seeding it" in note
