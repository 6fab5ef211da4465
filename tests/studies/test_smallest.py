"""The smallest graph that differs compiled is found, written down, and runs alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import whydiff


def sine_is_wrong(graph: Any, _: Any) -> Any:
    """A compiler that makes every sine a thousandth too large."""

    class Wrong(torch.fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            given = super().call_function(target, args, kwargs)
            return given * 1.001 if "sin" in str(target) and "sinh" not in str(target) else given

    return Wrong(graph).run


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(8, 8), torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.layer_norm(self.first(x), (8,)).tanh()
        return self.last(torch.sin(y).exp()).softmax(-1)


def test_it_is_cut_down_to_the_op(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 8)
    program = torch.compile(model, backend=sine_is_wrong)
    before = program(x)
    found = whydiff.smallest_graph(program, x, folder=tmp_path)
    assert (found.ops, found.finished) == (1, True)
    assert found.of > 6
    assert found.apart == pytest.approx(1e-3, rel=0.5)
    text = found.path.read_text()
    assert "torch.ops.aten.sin.default" in text
    assert "put the backend 'sine_is_wrong' here" in text
    compile(text, "program.py", "exec")
    assert len(torch.load(tmp_path / "inputs.pt", weights_only=True)) == 1
    assert torch.equal(program(x), before)


def test_of_several_graphs_the_one_that_differs_is_taken(tmp_path: Path) -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        y = torch.cos(x) * x
        torch._dynamo.graph_break()
        z = y.clone()
        z.add_(1)
        return torch.sin(z) + y

    x = torch.randn(5)
    program = torch.compile(broken, backend=sine_is_wrong)
    found = whydiff.smallest_graph(lambda: program(x), folder=tmp_path)
    assert found.ops == 1
    assert "aten.sin" in found.path.read_text()


def test_what_nothing_can_be_cut_of_is_refused(tmp_path: Path) -> None:
    x = torch.randn(3)
    right = torch.compile(torch.cos, backend=sine_is_wrong)
    with pytest.raises(whydiff.UsageError, match="gives, alone, the bits of its own ops"):
        whydiff.smallest_graph(right, x, folder=tmp_path)
    with pytest.raises(whydiff.UsageError, match="No graph of this program can be cut"):
        whydiff.smallest_graph(torch.cos, x, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_was_not_reached_is_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Model(), torch.randn(3, 8)
    program = torch.compile(model, backend=sine_is_wrong)
    found = whydiff.smallest_graph(program, x, folder=tmp_path, seconds=1e-9)
    assert not found.finished
    assert found.ops == found.of
    assert "time ran out" in str(found)


@pytest.mark.slow
def test_the_saved_program_runs_alone_and_shows_the_difference(tmp_path: Path) -> None:
    """16-bit values that inductor keeps wide."""
    x = torch.randn(64, dtype=torch.bfloat16)
    program = torch.compile(lambda x: (torch.sigmoid(x) * x).tanh() * 3 + 1)
    found = whydiff.smallest_graph(program, x, folder=tmp_path)
    assert found.ops < found.of
    told = subprocess.run([sys.executable, str(found.path)], capture_output=True, text=True, check=True).stdout
    assert int(told.split()[0]) > 0
    assert "whydiff" not in found.path.read_text()
