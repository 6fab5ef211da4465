"""Graphs that a program hands its compiler, with the values inside them: to be cut, compiled alone and written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import FAILURES
from whydiff.capturing.adapters._outputs import outputs_of
from whydiff.capturing.adapters.contract import Way
from whydiff.capturing.adapters.torch.climbing import TRACED, Climbing, name_of
from whydiff.capturing.adapters.torch.reading import READER
from whydiff.records import Output

_PROGRAM = '''"""A graph whose compiled form gives other numbers than its ops one by one: python program.py"""

from math import inf, nan
from pathlib import Path

import torch
from torch import device

{backend}

{code}

def difference(ours, theirs):
    apart = (ours.double() - theirs.double()).abs()
    return int((ours != theirs).sum()), float(apart.nan_to_num().max())


if __name__ == "__main__":
    inputs = torch.load(Path(__file__).with_name("inputs.pt"), weights_only=True)
    with torch.no_grad():
        plain = forward(None, *inputs)
        compiled = torch.compile(forward, backend=BACKEND, options=OPTIONS)(None, *inputs)
    elements, largest = difference(plain, compiled)
    print(f"{{elements}} of {{plain.numel()}} elements differ, at most by {{largest:.3g}}")
'''
_OWN = """def BACKEND(graph, inputs):
    raise NotImplementedError("put the backend {name} here")
"""


class Collecting(Climbing):
    """Runs what is compiled traced, and keeps every graph with the values that it was first given."""

    def __init__(self) -> None:
        super().__init__(Way(TRACED))
        self.found: list[tuple[fx.GraphModule, list[Any], Any]] = []

    def compiler(self, backend: Any) -> Callable[[Any, Any], Any]:
        """Keeps a graph, and runs its ops."""

        def collect(graph: fx.GraphModule, _: Any) -> Any:
            kept: list[Any] = []

            def run(*args: Any) -> Any:
                if not kept:
                    kept.extend(_copied(arg) for arg in args)
                    self.found.append((graph, kept, backend))
                return graph.forward(*args)

            return run

        return collect


class Graph(contract.Graph):
    """A functional graph of ATen ops, its inputs, and the value of every node when its ops run one by one."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any], backend: Any) -> None:
        self._module, self._inputs, self._backend = module, list(inputs), backend
        self._values: dict[fx.Node, Any] = {}
        keeping = _Keeping(module, self._values)
        with torch.no_grad():
            keeping.run(*map(_copied, inputs))
        self._nodes = list(module.graph.nodes)
        self.places = tuple(
            number
            for number, node in enumerate(self._nodes)
            if node.op == "call_function" and isinstance(self._values.get(node), torch.Tensor)
        )

    @property
    def ops(self) -> int:
        """How many ops it has."""
        return sum(node.op == "call_function" for node in self._nodes)

    def given(self, *, compiled: bool) -> tuple[Output, ...] | None:
        """What it gives back, compiled by the program's own backend or op by op; None: it raised."""
        program: Any = torch.compile(self._module, backend=self._backend, dynamic=False) if compiled else self._module
        try:
            with torch.no_grad():
                return outputs_of(program(*map(_copied, self._inputs)), READER)
        except FAILURES:
            return None

    def part(self, first: int, last: int) -> Graph:
        """What node ``last`` is made by, of the nodes from ``first`` on; what was made before is an input."""
        order = {node: number for number, node in enumerate(self._nodes)}
        needed, inputs, stack = set[fx.Node](), set[fx.Node](), [self._nodes[last]]
        while stack:
            node = stack.pop()
            if node in needed or node in inputs:
                continue
            tensor = isinstance(self._values.get(node), torch.Tensor)
            if node.op in ("placeholder", "get_attr") or (order[node] < first and tensor):
                inputs.add(node)
                continue
            needed.add(node)
            stack.extend(node.all_input_nodes)
        graph, made = fx.Graph(), dict[fx.Node, fx.Node]()
        outside = [node for node in self._nodes if node in inputs]
        for node in outside:
            made[node] = graph.placeholder(node.name)
        for node in self._nodes:
            if node in needed:
                made[node] = graph.node_copy(node, made.__getitem__)
        graph.output(made[self._nodes[last]])
        return Graph(fx.GraphModule({}, graph), [self._values[node] for node in outside], self._backend)

    def save(self, folder: Path) -> Path:
        """Write it as ``program.py`` with ``inputs.pt`` beside it, which run without whydiff."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([_copied(value) for value in self._inputs], folder / "inputs.pt")
        path = folder / "program.py"
        path.write_text(_PROGRAM.format(backend=_asked_for(self._backend), code=self._module.code.strip() + "\n"))
        return path


class _Keeping(fx.Interpreter):
    """Runs a graph and keeps every value as it was when it was made."""

    def __init__(self, module: fx.GraphModule, values: dict[fx.Node, Any]) -> None:
        super().__init__(module)
        self._kept = values

    def run_node(self, n: fx.Node) -> Any:
        """Run one node."""
        value = super().run_node(n)
        self._kept[n] = _copied(value)
        return value


def functional(graph: fx.GraphModule, inputs: Sequence[Any], backend: Any) -> Graph | None:
    """A traced graph as ATen ops without changes in place; None: it cannot be written so."""
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        with torch.no_grad():
            module = make_fx(torch.func.functionalize(graph))(*map(_copied, inputs))
        return Graph(module, inputs, backend)
    except FAILURES:
        return None


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _asked_for(backend: Any) -> str:
    """The backend and its options as source text."""
    name = name_of(backend)
    options: Mapping[str, Any] = getattr(backend, "config", None) or {}
    if name in torch._dynamo.list_backends(exclude_tags=()):
        return f"BACKEND, OPTIONS = {name!r}, {dict(options) or None!r}"
    return f"{_OWN.format(name=repr(name))}\n\nOPTIONS = None"
