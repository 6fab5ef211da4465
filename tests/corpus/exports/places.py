"""Where a changed file is other, by its own graph: the modules that an origin may name. Nothing of whydiff is asked."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from onnx import numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "Where", "Concat")
"""Nodes whose constants may be masks and tables as well as a norm's weight, which has one axis."""


def allowed(good: Any, changed: Any) -> set[str]:
    """Paths of the modules from the changed node to the first that reads a weight: what is between two weights is one step.

    Args:
        good: the model as it was exported.
        changed: the same with one node or one constant changed.

    Returns:
        Paths; empty where nothing differs.
    """
    arrays = {t.name: numpy_helper.to_array(t) for t in changed.graph.initializer}
    weights = {name: array for name, array in arrays.items() if array.size > 1 and array.dtype.kind == "f"}
    begin = starts(good, changed)
    found, waiting, seen = set(), list(begin), set()
    while waiting:
        node = waiting.pop()
        if node.output[0] in seen:
            continue
        seen.add(node.output[0])
        found.add(path(node))
        if node in begin or not _reads_a_weight(node, weights):
            waiting += _readers(changed, node)
            found |= {""} if {one.name for one in changed.graph.output} & set(node.output) else set()
    return found


def _reads_a_weight(node: Any, weights: dict[str, Any]) -> bool:
    read = [weights[name] for name in node.input if name in weights]
    return any(array.ndim == 1 or node.op_type not in ELEMENTWISE for array in read)


def starts(good: Any, changed: Any) -> list[Any]:
    """The nodes that compute something else: changed ones, and those that read a changed constant, which may be several."""
    nodes = [new for old, new in zip(good.graph.node, changed.graph.node, strict=True) if old != new]
    constants = {t.name for t, old in zip(changed.graph.initializer, good.graph.initializer, strict=True) if t != old}
    constants |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    nodes = [node for node in nodes if node.op_type != "Constant"]
    return nodes + [node for node in changed.graph.node if constants & set(node.input)]


def _readers(model: Any, node: Any) -> Iterator[Any]:
    made = set(node.output)
    yield from (other for other in model.graph.node if made & set(other.input))


def path(node: Any) -> str:
    """The module that a node was exported from, by the exporter's metadata, else by the node's name."""
    scopes = next((one.value for one in node.metadata_props if one.key == SCOPES), None)
    if scopes is not None:
        return next((str(scope) for scope in ast.literal_eval(scopes)[-2::-1]), "")  # the last is the node's own
    words: list[str] = []
    for word in node.name.split("/")[1:-1]:
        if words and word.startswith(f"{words[-1]}."):
            words.pop()
        words.append(word)
    return ".".join(words)
