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
    paths = [tmp_path / side for side in ("reference", "candidate")]
    for path, program in zip(paths, programs, strict=True):
        run = for_target(program).run(program, (), {})
        with TraceWriter(path, framework="torch", level="op", environment=environment()) as writer:
            writer.close(**run.record(writer, payloads="all"))
    found = whydiff.compare(*paths)
    assert str(found.verdict) == verdict, found.reason
