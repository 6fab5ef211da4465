"""Outputs that Python made, beside a tensor that differs by rounding alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff
from whydiff.capturing.adapters import for_target
from whydiff.capturing.adapters.torch.environment import environment
from whydiff.capturing.store import TraceWriter

torch.manual_seed(0)
X, W = torch.randn(8, 512), torch.randn(512, 16)
Program = Callable[[], Any]


def pair(
    made: Callable[[torch.Tensor], Any], other: Callable[[torch.Tensor], Any] | None = None
) -> tuple[Program, Program]:
    """A product against the sum of two halves, each with something made of it."""

    def reference() -> Any:
        product = X @ W
        return product, made(product)

    def candidate() -> Any:
        product = X[:, ::2] @ W[::2] + X[:, 1::2] @ W[1::2]
        return product, (other or made)(product)

    return reference, candidate


FOLLOWS = {
    "number": pair(lambda y: float(y.sum())),
    "words": pair(lambda y: f"{float(y.sum()):.9f}"),
    "numpy": pair(lambda y: y.numpy() * 2),
    "choices": pair(lambda y: y.argmax(1).tolist()),
}
APART = {
    "constant": (pair(lambda y: 1.5, lambda y: 1.6), "semantic"),
    "count": (pair(lambda y: 3, lambda y: 4), "semantic"),
    "word": (pair(lambda y: "a", lambda y: "b"), "inconclusive"),
    "another axis": (
        pair(lambda y: float((y / 30).softmax(0).max()), lambda y: float((y / 30).softmax(1).max())),
        "semantic",
    ),
    "numpy": (pair(lambda y: y.numpy() * 2, lambda y: y.numpy() * 2.1), "semantic"),
    "choices": (pair(lambda y: y.argmax(1).tolist(), lambda y: (y.argmax(1) + 1).tolist()), "semantic"),
}


@pytest.mark.parametrize("name", FOLLOWS)
def test_what_follows_from_rounding_is_rounding(name: str) -> None:
    found = whydiff.compare(*FOLLOWS[name])
    assert str(found.verdict) == "rounding", found.reason


@pytest.mark.parametrize("name", APART)
def test_what_differs_for_another_reason_is_not_called_rounding(name: str) -> None:
    programs, verdict = APART[name]
    found = whydiff.compare(*programs)
    assert str(found.verdict) == verdict, found.reason


@pytest.mark.parametrize(("name", "verdict"), [("follows", "rounding"), ("apart", "semantic")])
def test_of_traces_what_a_pair_of_calls_wrote_is_lifted(name: str, verdict: str, tmp_path: Path) -> None:
    programs = FOLLOWS["number"] if name == "follows" else APART["another axis"][0]
    found = whydiff.compare(*_traces(programs, tmp_path))
    assert str(found.verdict) == verdict, found.reason


def _traces(programs: tuple[Program, Program], folder: Path) -> list[Path]:
    paths = [folder / side for side in ("reference", "candidate")]
    for path, program in zip(paths, programs, strict=True):
        run = for_target(program).run(program, (), {})
        with TraceWriter(path, framework="torch", level="op", environment=environment()) as writer:
            writer.close(**run.record(writer, payloads="all"))
    return paths


Z = torch.randn(4, 6)


def step_left_out(handed: Callable[[torch.Tensor], Any]) -> tuple[Program, Program]:
    """Every call that both sides have agrees; one side hands out another value of the run."""

    def run(left_out: bool) -> Any:
        h = torch.tanh(Z)
        return handed(h if left_out else h.abs())

    return lambda: run(False), lambda: run(True)


HANDED_OUT = {
    "a row as a list": lambda h: h[1].tolist(),
    "nested lists": lambda h: h[:2].tolist(),
    "array": lambda h: h.numpy(),
    "number": lambda h: float(h.sum()),
    "complex number": lambda h: complex(float(h[0, 0]), float(h[0, 1])),
    "place": lambda h: int(h.argmin()),
    "yes or no": lambda h: bool(h.sum() < 0),
}


@pytest.mark.parametrize("name", HANDED_OUT)
def test_what_python_hands_out_is_judged_alike_live_and_from_disk(name: str, tmp_path: Path) -> None:
    programs = step_left_out(HANDED_OUT[name])
    live, disk = whydiff.compare(*programs), whydiff.compare(*_traces(programs, tmp_path))
    assert (live.verdict, live.reason) == (disk.verdict, disk.reason)
    equal = programs[0]() == programs[1]() if name != "array" else False
    assert str(live.verdict) == ("identical" if equal else "semantic"), live.reason


def test_what_numpy_made_is_not_known_from_a_trace(tmp_path: Path) -> None:
    programs = step_left_out(lambda h: h.numpy().min() * 3)
    found = whydiff.compare(*_traces(programs, tmp_path))
    assert str(found.verdict) == "inconclusive", found.reason


def test_rounding_that_went_through_numpy_is_not_made_another_function(tmp_path: Path) -> None:
    programs = pair(lambda y: (torch.from_numpy(y.numpy() * 1) * 3).tanh().numpy())
    live, disk = whydiff.compare(*programs), whydiff.compare(*_traces(programs, tmp_path))
    assert str(live.verdict) == "rounding", live.reason
    assert str(disk.verdict) in ("rounding", "inconclusive"), disk.reason
