"""The user's own lines: of ops that their code asks torch for, and of no others."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from whydiff.capturing.adapters.torch.run import Run
from whydiff.pipeline import compare
from whydiff.report.answer import answer

CODE = """import torch
def forward(x, scale=1.0):
    h = torch.nn.functional.gelu(x)
    return torch.nn.functional.layer_norm(
        h * scale + 1,
        (4,),
    )
def trained(x):
    x = x.clone().requires_grad_()
    (x * x).sum().backward()
    return x.grad
"""
X = torch.linspace(-1, 1, 8).reshape(2, 4)


def module(folder: Path, name: str = "train") -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(CODE)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def lines(program: Any) -> dict[str, str]:
    run = Run(program, (X,), {})
    trace, before = run.capture(), run.check()
    found = run.lines([call.site for call in trace.calls])
    assert run.check() == before, "what the run remembers is what it was"
    return {f"{site.op} {site.phase}": Path(line).name for site, line in found.items()}


def test_every_op_has_the_line_that_asks_for_it(tmp_path: Path) -> None:
    mine = module(tmp_path)
    found = lines(mine.forward)
    assert found["gelu forward"] == "train.py:3" and found["mul forward"] == "train.py:5"
    assert found["native_layer_norm forward"].startswith("train.py:4")
    assert lines(mine.trained)["sum forward"] == "train.py:10"


def test_an_op_that_a_library_asks_for_has_no_line_of_the_user(tmp_path: Path) -> None:
    library = module(tmp_path / "site-packages", "library")
    assert lines(library.forward) == lines(torch.nn.Linear(4, 2)) == {}, "nor that of who asks for the comparison"
    assert set(lines(lambda x: library.forward(x).exp())) == {"exp forward"}


def test_where_ends_with_the_line(tmp_path: Path) -> None:
    mine = module(tmp_path)
    found = compare(mine.forward, lambda x: mine.forward(x, 1.01), X)
    assert answer(found).where.endswith("(train.py:5)") and found.origins[0].line == f"{tmp_path / 'train.py'}:5"
    library = module(tmp_path / "site-packages", "library")
    assert "py:" not in answer(compare(library.forward, lambda x: library.forward(x, 1.01), X)).where
