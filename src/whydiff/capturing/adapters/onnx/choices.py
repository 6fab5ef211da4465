"""Attributes of ONNX's operators that choose among a few ways of computing; defaults as of the operators' schemas."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from whydiff.records import Call

_FIXED: dict[str, dict[int | str, Sequence[Any]]] = {
    "Gelu": {"approximate": ("none", "tanh")},
    "GRU": {"linear_before_reset": (0, 1), "direction": ("forward", "reverse")},
    "LSTM": {"input_forget": (0, 1), "direction": ("forward", "reverse")},
    "RNN": {"direction": ("forward", "reverse")},
    "Gemm": {"transA": (0, 1), "transB": (0, 1)},
    "AveragePool": {"count_include_pad": (0, 1), "ceil_mode": (0, 1)},
    "MaxPool": {"ceil_mode": (0, 1)},
    "CumSum": {"exclusive": (0, 1), "reverse": (0, 1)},
    "Trilu": {"upper": (0, 1)},
    "Mod": {"fmod": (0, 1)},
    "DepthToSpace": {"mode": ("DCR", "CRD")},
    "GridSample": {"align_corners": (0, 1), "padding_mode": ("zeros", "border", "reflection")},
}
_AXES = ("Softmax", "LogSoftmax", "LayerNormalization", "Concat", "Gather", "Flatten")
_ORDERS = 4
"""Axes whose orders are all tried at most (a size, not a tolerance)."""


def choices_of(call: Call) -> Mapping[int | str, Sequence[Any]]:
    """Attribute → every value that it could have."""
    op = call.site.op
    rank = len(call.reads[0].spec.shape) if call.reads else 0
    found = dict(_FIXED.get(op, {}))
    if op in _AXES:
        found["axis"] = tuple(range(rank))
    if op == "Transpose" and rank <= _ORDERS:
        found["perm"] = tuple(list(order) for order in itertools.permutations(range(rank)))
    return found
