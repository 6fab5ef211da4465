"""Executes a recorded ONNX graph again, node by node, by ONNX's reference implementation: in float64 where asked."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from whydiff.capturing.adapters._live import FAILURES, ArrayReplay, not_lifted, short
from whydiff.capturing.adapters.contract import FUSED
from whydiff.capturing.adapters.onnx.values import Array, floating, from_payload, to_payload
from whydiff.errors import PayloadError, ReplayError
from whydiff.records import Call, Count, Event, Leaf, Lift, Payload, Trace

_CASTS = frozenset({"Cast", "CastLike"})


class Executor(ArrayReplay):
    """Replays one trace; see `whydiff.capturing.adapters.contract.Executor`.

    Args:
        trace: of a live run.
        restore: leaf name → what takes its place.
        lift: carry every floating value in this dtype.
        exchanged: call index → the call that takes its place.
    """

    framework = "onnx"

    def __init__(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, Array] | None = None,
        lift: Lift | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore, exchanged)
        self.dtype = None if lift is None else np.dtype(lift.dtype)
        self._not_lifted: dict[str, list[str]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Nothing has to be set."""
        with np.errstate(all="ignore"):
            yield

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after a call; recorded values are taken where its inputs are the run's."""
        if call.kind != "compute":
            return ""
        if self.dtype is None and self._reads_as_in_the_run(call):
            for event in call.writes:
                self._held[event.storage] = self._recorded(event)
            return ""
        try:
            outs = self.apply(call, [self.read(event) for event in call.reads])
        except FAILURES as error:
            for event in call.writes:
                self._held[event.storage] = self._wide(self._recorded(event))
            self._not_lifted.setdefault(short(error), []).append(str(call.site))
            return f"taken as recorded: {short(error)}"
        for event, out in zip(call.writes, outs, strict=True):
            self._held[event.storage] = out
            self._changed.add(event.storage)
        return ""

    def carried_out(self, call: Call, reads: Sequence[Array]) -> list[Array]:
        """Execute a node alone on given values.

        Raises:
            ReplayError: the node was not kept, or has no reference implementation.
        """
        if call.target == FUSED:
            return [np.asarray(self.fused(call, reads))]
        kept = self.trace.handles.get(f"call/{call.index}")
        if kept is None:
            raise ReplayError("Only a live run's nodes are executed again.", where=str(call.site))
        node, opset, named = kept
        operands, attributes = call.arguments
        usual = next((read.dtype for read in reads if floating(read)), np.dtype(np.float32))
        feeds: dict[str, Array] = {}
        for (name, constant), operand in zip(named[: len(operands)], operands, strict=True):
            if isinstance(operand, dict):
                feeds[name] = reads[operand["$read"]]
            elif operand is not None:
                feeds[name] = np.full(np.shape(constant), operand, usual)
        if self.dtype is not None and call.site.op in _CASTS and floating(call_output(call)):
            return [np.asarray(reads[0]).astype(self.dtype)]
        outs = _evaluator(_edited(node, attributes, self.dtype), opset, tuple(feeds)).run(None, feeds)
        return [self._wide(np.asarray(out)) for out in outs]

    def _wide(self, value: Array) -> Array:
        if self.dtype is None or not floating(value):
            return value
        return value.astype(self.dtype)

    def _recorded(self, event: Event) -> Array:
        payload = self.trace.payload(event.payload) if event.payload else None
        if payload is None:
            raise PayloadError("The recorded value was not kept.", where=str(event.site))
        return from_payload(payload)

    def read(self, event: Event) -> Array:
        """The value an event looks at, as it is now in the replay.

        Raises:
            PayloadError: the call that made it could not be executed.
        """
        if event.site in self._stand_ins:
            return np.asarray(self._stand_ins[event.site])
        if event.storage not in self._held:
            self._held[event.storage] = self._wide(self.leaf_value(self._leaf_at(event)))
        held: Array = self._held[event.storage]
        return held

    def leaf_value(self, leaf: Leaf) -> Array:
        """A leaf's value at the beginning of the run."""
        if leaf.name in self._restore:
            return np.asarray(self._restore[leaf.name])
        value = self.trace.handles.get(leaf.name)
        return from_payload(self._kept(leaf)) if value is None else np.asarray(value)

    def overwrite(self, event: Event, value: Array) -> bool:
        """Give the replay another value in an event's place; False for leaves and for other shapes."""
        if tuple(value.shape) != event.spec.shape or event.storage in self._leaves:
            return False
        self._held[event.storage] = self._wide(np.asarray(value))
        self._changed.add(event.storage)
        return True

    def stand_in(self, event: Event, value: Array) -> bool:
        """Give one read another value; False for another shape."""
        if tuple(value.shape) != event.spec.shape:
            return False
        self._stand_ins[event.site] = self._wide(np.asarray(value))
        return True

    def faithful(self, call: Call) -> bool | None:
        """None: the reference implementation rounds otherwise than the runtime, which is no evidence."""
        return None

    def same(self, reference: Array, candidate: Array) -> bool:
        """True if no bit differs."""
        return reference.shape == candidate.shape and reference.tobytes() == candidate.tobytes()

    def payload(self, value: Array) -> Payload:
        """A host copy."""
        return to_payload(value)

    def adopt_foreign(self, payload: Payload) -> Array:
        """A host array with a payload's numbers."""
        return from_payload(payload)

    def copy(self, value: Array) -> Array:
        """An array of its own."""
        return np.array(value)

    def counts(self) -> tuple[Count, ...]:
        """Nodes that were taken as recorded."""
        return tuple(not_lifted(self._not_lifted))


def call_output(call: Call) -> Array:
    """An empty array of the dtype that a call writes first."""
    name = call.writes[0].spec.dtype
    return np.empty(0, np.float32 if name == "bfloat16" else np.dtype(name))


_DOUBLE = 11
"""``TensorProto.DOUBLE``."""


def _edited(node: Any, attributes: Mapping[str, Any], dtype: Any) -> Any:
    """The node with the attributes that a call has now; what norms compute in is as wide as what they are given."""
    import onnx

    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    own = {attribute.name: attribute for attribute in node.attribute}
    kept = [own[name] for name, value in attributes.items() if isinstance(value, dict) and name in own]
    plain = {name: value for name, value in attributes.items() if not isinstance(value, dict)}
    if dtype == np.float64 and node.op_type in ("RMSNormalization", "GroupNormalization"):
        plain["stash_type"] = _DOUBLE
    del changed.attribute[:]
    changed.attribute.extend(kept)
    changed.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in plain.items())
    return changed


def _evaluator(node: Any, opset: Sequence[Any], inputs: tuple[str, ...]) -> Any:
    versions = tuple((one.domain, one.version) for one in opset)
    return _prepared(node.SerializeToString(), versions, inputs)


@functools.lru_cache(maxsize=4096)
def _prepared(node: bytes, versions: tuple[tuple[str, int], ...], inputs: tuple[str, ...]) -> Any:
    import onnx
    from onnx.reference import ReferenceEvaluator

    one = onnx.NodeProto.FromString(node)
    graph = onnx.helper.make_graph(
        [one],
        "one",
        [onnx.helper.make_empty_tensor_value_info(name) for name in inputs],
        [onnx.helper.make_empty_tensor_value_info(name) for name in one.output if name],
    )
    opset = [onnx.helper.make_opsetid(domain, version) for domain, version in versions]
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset), new_ops=[_resize()])


@functools.lru_cache(maxsize=1)
def _resize() -> Any:
    """The reference's Resize with its cubic coefficient as a Python number: numpy's float32 makes all weights float32."""
    from onnx.reference.ops.op_resize import Resize as Known

    def run(self: Any, *operands: Any, cubic_coeff_a: Any = None, **how: Any) -> Any:
        how["cubic_coeff_a"] = None if cubic_coeff_a is None else float(cubic_coeff_a)
        return Known._run(self, *operands, **how)

    return type("Resize", (Known,), {"_run": run, "op_domain": ""})
