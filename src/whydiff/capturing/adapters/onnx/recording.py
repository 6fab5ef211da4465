"""An ONNX graph with its values as a trace: nodes are calls, weights and constants are leaves."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from whydiff.capturing.adapters.onnx.model import OnnxModel
from whydiff.capturing.adapters.onnx.roles import NAMES
from whydiff.capturing.adapters.onnx.values import spec_of, to_payload
from whydiff.capturing.adapters.roles import Role
from whydiff.records import Call, Environment, Event, Leaf, ObserverCheck, Output, RecordedTrace, Site

_SCOPES = "pkg.torch.onnx.name_scopes"
_NUMBERS = frozenset(NAMES[Role.ELEMENTWISE]) - {"Cast", "Where"}
"""Operators among whose operands a lone constant number is written as an argument."""


def values_inside(model: Any) -> list[str]:
    """Names of everything that the graph's nodes compute, constants left out."""
    return [name for node in model.graph.node if node.op_type != "Constant" for name in node.output if name]


def record(
    model: OnnxModel, values: Mapping[str, Any], environment: Environment, anchor: tuple[Output, ...], note: str
) -> RecordedTrace:
    """The trace of a run.

    Args:
        model: the file.
        values: inputs, outputs and everything inside, by name.
        environment: versions.
        anchor: what the plain run gave back.
        note: how values were taken.
    """
    return _Recorder(model, values).trace(environment, anchor, note)


class _Recorder:
    def __init__(self, model: OnnxModel, values: Mapping[str, Any]) -> None:
        import onnx

        self.graph = model.graph.graph
        self.opset = list(model.graph.opset_import)
        self.constants = {t.name: onnx.numpy_helper.to_array(t) for t in self.graph.initializer}
        for node in self.graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = np.asarray(_constant(node))
        self.values = {**self.constants, **values}
        self.inputs, self.outputs = model.inputs, model.outputs
        self.storages: dict[str, int] = {}
        self.producers: dict[str, int] = {}
        self.calls: list[Call] = []
        self.handles: dict[str, Any] = {}
        self.count: dict[tuple[str, str], int] = {}

    def trace(self, environment: Environment, anchor: tuple[Output, ...], note: str) -> RecordedTrace:
        for node in self.graph.node:
            if node.op_type != "Constant":
                self._node(node)
        self._return()
        leaves = tuple(self._leaves())
        return RecordedTrace(
            framework="onnx",
            level="op",
            calls=tuple(self.calls),
            leaves=leaves,
            environment=environment,
            observer=ObserverCheck(deterministic=None, unchanged=None, outputs=len(anchor), note="not checked yet"),
            note=note,
            payloads={f"value/{name}": functools.partial(to_payload, value) for name, value in self.values.items()},
            handles={**{name: self.values[name] for name in (leaf.name for leaf in leaves)}, **self.handles},
            outputs=anchor,
        )

    def _node(self, node: Any) -> None:
        operands: list[Any] = []
        reads: list[str] = []
        named = [(name, self.constants.get(name)) for name in (*node.input, *_free_names(node))]
        for name, number in named:
            if not name:
                operands.append(None)
            elif node.op_type in _NUMBERS and number is not None and number.size == 1 and number.dtype.kind == "f":
                operands.append(float(number.reshape(())))
            else:
                operands.append({"$read": len(reads)})
                reads.append(name)
        attributes = {attribute.name: _plain(attribute) for attribute in node.attribute}
        site = self._site(_scope(node), node.op_type)
        index = len(self.calls)
        written = [name for name in node.output if name]
        call = Call(
            index=index,
            site=site,
            target=f"onnx.{node.domain or 'ai.onnx'}.{node.op_type}",
            kind="compute",
            reads=tuple(self._event(site, f"read.{i}", name) for i, name in enumerate(reads)),
            writes=tuple(self._written(site, i, len(written), name, index) for i, name in enumerate(written)),
            arguments=[operands, attributes],
        )
        self.handles[f"call/{index}"] = (node, self.opset, named)
        self.calls.append(call)

    def _return(self) -> None:
        names = self.outputs
        site = Site("", "return")
        slots = ["output"] if len(names) == 1 else [f"[{i}]" for i in range(len(names))]
        reads = tuple(self._event(site, slot, name) for slot, name in zip(slots, names, strict=True))
        self.calls.append(
            Call(index=len(self.calls), site=site, target="return", kind="return", reads=reads, arguments=[[], {}])
        )

    def _site(self, scope: str, op: str) -> Site:
        number = self.count.get((scope, op), 0)
        self.count[scope, op] = number + 1
        return Site(scope, op, occurrence=number)

    def _event(self, site: Site, slot: str, name: str) -> Event:
        storage = self.storages.setdefault(name, len(self.storages))
        return Event(
            site=site.at(slot),
            spec=spec_of(self.values[name]),
            storage=storage,
            producer=self.producers.get(name, -1),
            payload=f"value/{name}",
        )

    def _written(self, site: Site, number: int, count: int, name: str, index: int) -> Event:
        self.producers[name] = index
        return self._event(site, "output" if count == 1 else f"output.{number}", name)

    def _leaves(self) -> Iterator[Leaf]:
        for name in (*self.inputs, *self.constants):
            value = self.values[name]
            role = "input" if name in self.inputs else "parameter" if value.size > 1 else "constant"
            yield Leaf(
                storage=self.storages.get(name, -1),
                role=role,  # type: ignore[arg-type]
                name=name,
                spec=spec_of(value),
                payload=f"value/{name}",
            )


def _free_names(node: Any) -> list[str]:
    """Names of the outer graph that a node's own graphs (a loop's body) read."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
            own = {one.name for one in (*graph.input, *graph.initializer)} | {o for n in graph.node for o in n.output}
            names = [i for n in graph.node for i in (*n.input, *_free_names(n))] + [one.name for one in graph.output]
            found |= dict.fromkeys(name for name in names if name and name not in own and name not in node.input)
    return [*found]


def _scope(node: Any) -> str:
    """The module's path: from the exporter's metadata, else from the node's name (``/layer/fc/MatMul``)."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                break
            return str(scopes[-2]) if len(scopes) > 1 else ""
    path = node.name.strip("/").split("/")[:-1] if node.name.startswith("/") else []
    return ".".join(part.rpartition(".")[2] if number else part for number, part in enumerate(path))


def _constant(node: Any) -> Any:
    import onnx

    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name in ("value", "sparse_value"):
        return onnx.numpy_helper.to_array(value)
    kinds: dict[str, Any] = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    return np.asarray(value, kinds.get(attribute.name))


def _plain(attribute: Any) -> Any:
    """An attribute as JSON-able data; what has none becomes ``{"$opaque": name}``."""
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        return value
    return {"$opaque": attribute.name}
