"""Batch norms that one side computed into the layer before, as exporters and deployments do: whose weights are whose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call, Leaf, Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fold:
    """A layer and the batch norm behind it.

    Attributes:
        kernel, bias: names: the layer's weight, the norm's bias.
        beside: names of what else goes into the folded weights.
        weights: the folded kernel and bias, in float64.
    """

    kernel: str
    bias: str
    beside: tuple[str, ...]
    weights: tuple[Array, Array]


def folds(trace: Trace, numbers: Callable[[Leaf], Array]) -> Iterator[Fold]:
    """Every batch norm by kept statistics whose operand is the result of a convolution or a product of a weight.

    Args:
        trace: of the side that has the norms.
        numbers: a leaf's, exactly.
    """
    adapter = for_framework(trace.framework)
    leaves = {leaf.storage: leaf for leaf in trace.leaves if leaf.is_state and not leaf.skipped}
    for call in trace.calls:
        if Role.BATCH_NORM not in adapter.roles(call.site.op) or not call.reads or call.reads[0].producer < 0:
            continue
        before = trace.calls[call.reads[0].producer]
        if Role.CONVOLUTION not in adapter.roles(before.site.op):
            continue
        window = adapter.window(before)
        state = {
            name: leaf
            for name in ("weight", "bias", "mean", "variance")
            if (leaf := _leaf(adapter, call, name, leaves))
        }
        kernel = leaves.get(before.reads[1].storage)
        if window is None or kernel is None or not {"bias", "mean", "variance"} <= {*state}:
            continue
        eps = next((a for a in reversed(call.arguments[0]) if isinstance(a, float)), None)
        if eps is None or _training(adapter, call):
            continue
        held = {name: numbers(leaf) for name, leaf in state.items()}
        scale = held.get("weight", np.ones_like(held["mean"])) / np.sqrt(held["variance"] + eps)
        own = leaves.get(before.reads[window.bias].storage) if window.bias >= 0 else None
        shift = held["bias"] + ((numbers(own) if own is not None else 0.0) - held["mean"]) * scale
        around = [1] * len(kernel.spec.shape)
        around[window.kernel[0]] = -1
        beside = [leaf.name for name, leaf in state.items() if name != "bias"] + ([own.name] if own is not None else [])
        yield Fold(
            kernel=kernel.name,
            bias=state["bias"].name,
            beside=tuple(beside),
            weights=(numbers(kernel) * scale.reshape(around), shift),
        )


def _leaf(adapter: Any, call: Call, meaning: str, leaves: Mapping[int, Leaf]) -> Leaf | None:
    place = adapter.places(call.site.op).get(meaning)
    if place is None or place[0] is None or place[0] >= len(call.arguments[0]):
        return None
    given = call.arguments[0][place[0]]
    return leaves.get(call.reads[given["$read"]].storage) if isinstance(given, dict) and "$read" in given else None


def _training(adapter: Any, call: Call) -> bool:
    place = adapter.places(call.site.op).get("training")
    given = call.arguments[0][place[0]] if place is not None and place[0] is not None else False
    return given is True
