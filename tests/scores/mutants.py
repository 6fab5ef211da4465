"""A decomposition of an operator as a graph, with one thing in it changed: another function, and how far it is off."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tests.scores import plain
from torch._decomp import decomposition_table
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

_EXCHANGED = (
    ("amax", "amin"),
    ("maximum", "minimum"),
    ("sin", "cos"),
    ("sinh", "cosh"),
    ("exp", "expm1"),
    ("log", "log1p"),
    ("add", "sub"),
    ("mul", "div"),
    ("sqrt", "rsqrt"),
    ("floor", "ceil"),
    ("round", "trunc"),
    ("sigmoid", "tanh"),
    ("erf", "tanh"),
    ("gt", "lt"),
    ("ge", "le"),
    ("eq", "ne"),
    ("argmax", "argmin"),
    ("cumsum", "cumprod"),
    ("sum", "mean"),
    ("clamp_min", "clamp_max"),
)
_UNARY = ("abs", "neg", "exp", "sqrt", "rsqrt", "square", "reciprocal", "relu", "tanh", "sigmoid", "log", "floor")
_BINARY = ("add", "sub", "mul", "div", "pow")
Change = tuple[str, Callable[[Node], None]]


@dataclass(frozen=True)
class Mutant:
    """A changed graph.

    Attributes:
        original: the operator, as a function of a sample's tensors.
        graph: the changed decomposition, likewise.
        args: the tensors.
        change: in words.
        apart: from the operator, in float64 (`plain.apart`).
    """

    original: Callable[..., Any]
    graph: GraphModule
    args: list[torch.Tensor]
    change: str
    apart: float


def tensors(sample: Any) -> list[torch.Tensor]:
    """The tensors of a sample, in order."""
    leaves = tree_leaves((sample.input, sample.args, sample.kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def original(op: Callable[..., Any], sample: Any) -> tuple[Callable[..., Any], list[torch.Tensor]]:
    """An operator as a function of a sample's tensors alone."""
    leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
    parts = [None if isinstance(leaf, torch.Tensor) else (leaf,) for leaf in leaves]

    def run(*given: torch.Tensor) -> Any:
        rest = iter(given)
        full = [next(rest) if part is None else part[0] for part in parts]
        first, args, kwargs = tree_unflatten(full, spec)
        return op(first, *args, **kwargs)

    return run, tensors(sample)


def of(op: Callable[..., Any], sample: Any, draw: random.Random, tries: int = 8) -> Mutant | None:
    """A mutant of an operator's decomposition that is another function on this sample; None: none was found."""
    run, args = original(op, sample)
    try:
        graph = make_fx(run, decomposition_table=decomposition_table)(*args)
        truth = plain.called(run, plain.lifted(args), {})
        plainly = plain.called(run, args, {})
        faithful = plain.apart(truth, plain.called(_double(graph), plain.lifted(args), {}))
    except Exception:  # noqa: BLE001 - what cannot be traced has no mutant
        return None
    unwritten = any("empty" in str(node.target) for node in graph.graph.nodes)  # a change may leave it unwritten
    if unwritten or faithful is None or faithful > plain.SAME:
        return None
    possible = [(node.name, *change) for node in graph.graph.nodes for change in changes(node)]
    for name, change, apply in draw.sample(possible, min(tries, len(possible))):
        mutated = _mutated(graph, name, apply)
        far = _far(mutated, args, truth, plainly)
        if far is not None:
            return Mutant(run, mutated, args, f"{name}: {change}", far)
    return None


def _far(graph: GraphModule, args: list[torch.Tensor], truth: Any, plainly: Any) -> float | None:
    """How far a changed graph is from what the operator gives; None: it is no other function, or does not run."""
    try:
        far = plain.apart(truth, plain.called(_double(graph), plain.lifted(args), {}))
        here = plain.apart(plainly, plain.called(graph, args, {}))
    except Exception:  # noqa: BLE001 - what does not run is no mutant
        return None
    other = far is not None and here is not None and min(far, here) > plain.OTHER
    return far if other else None


def _copied(graph: GraphModule) -> torch.fx.Graph:
    copied = torch.fx.Graph()
    copied.output(copied.graph_copy(graph.graph, {}))
    return copied


def _mutated(graph: GraphModule, name: str, apply: Callable[[Node], None]) -> GraphModule:
    copied = _copied(graph)
    apply(next(node for node in copied.nodes if node.name == name))
    copied.eliminate_dead_code()
    return GraphModule(graph, copied)


def _double(graph: GraphModule) -> GraphModule:
    """The graph with double precision wherever it asks for single."""
    wider = {torch.float32: torch.float64, torch.complex64: torch.complex128}
    copied = _copied(graph)

    def widen(x: Any) -> Any:
        return wider.get(x, x) if isinstance(x, torch.dtype) else x

    for node in copied.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), widen)
    return GraphModule(graph, copied)


# --------------------------------------------------------------------------- what may be changed


def changes(node: Node) -> Iterator[Change]:
    """What may be changed at a node."""
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return
    name = node.target._schema.name.removeprefix("aten::")
    for one, other in (*_EXCHANGED, *((b, a) for a, b in _EXCHANGED)):
        if name == one:
            yield f"{one} becomes {other}", lambda n, o=other: _exchange(n, o)
    if name in (*_UNARY, *_BINARY) and isinstance(node.args[0], Node):
        yield f"{name} is left out", _leave_out
    if name == "where":
        yield "where's branches are exchanged", _swap_branches
    for place, argument in enumerate(node.target._schema.arguments):
        if place < len(node.args) and argument.name not in ("dtype", "layout", "device"):
            yield from _of_value(node.args[place], place, argument.name)


def _of_value(value: Any, place: int, name: str) -> Iterator[Change]:
    if isinstance(value, bool):
        yield f"{name} becomes {not value}", lambda n: n.update_arg(place, not value)
    elif isinstance(value, float):
        other = value * 30 if 0 < abs(value) < 1e-3 else value * 1.01
        yield f"{name} {value:g} becomes {other:g}", lambda n: n.update_arg(place, other)
        yield f"{name} changes its sign", lambda n: n.update_arg(place, -value)
    elif isinstance(value, int):
        yield f"{name} {value} becomes {value + 1}", lambda n: n.update_arg(place, value + 1)
        yield f"{name} {value} becomes {value - 1}", lambda n: n.update_arg(place, value - 1)
    elif name in ("dim", "dims") and isinstance(value, (list, tuple)) and all(isinstance(x, int) for x in value):
        yield f"{name} {list(value)} is reversed", lambda n: n.update_arg(place, list(value)[::-1])
        other = [x - 1 for x in value]
        yield f"{name} {list(value)} becomes {other}", lambda n: n.update_arg(place, other)


def _exchange(node: Node, name: str) -> None:
    packet = getattr(torch.ops.aten, name)
    overload = node.target._overloadname  # type: ignore[union-attr]
    node.target = getattr(packet, overload if overload in packet.overloads() else packet.overloads()[0])


def _leave_out(node: Node) -> None:
    node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]


def _swap_branches(node: Node) -> None:
    condition, one, other = node.args
    node.args = (condition, other, one)
