"""No compiler is imported to meet an op; where there is one, it does not read what meets it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import torch

from whydiff.capturing.adapters.torch.modes import Mode

ALONE = """
import sys, torch
from whydiff.studies.ranging import range_audit
import whydiff

x = torch.linspace(-2, 2, 64).reshape(8, 8)
report = range_audit(lambda: (x @ x).exp().sum())
assert report.to_dict()
whydiff.compare(lambda: (x.half() * 300 @ x.half()).softmax(-1), lambda: (x.half() * 300.5 @ x.half()).softmax(-1))
print("torch._dynamo" in sys.modules)
"""


class Doubling(Mode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        return made * 2 if func is torch.ops.aten.sin.default else made


def test_an_audit_imports_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


def test_a_handler_is_not_compiled_into_the_program() -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    x = torch.ones(5)
    program = torch.compile(lambda value: value.sin() + 1, backend=backend)
    with Doubling():
        out = program(x)
    assert torch.equal(out, x.sin() * 2 + 1)
    assert not [node for graph in graphs for node in graph.graph.nodes if "mul" in str(node.target)]
