"""Primitives on the host: no compilation for what numpy does as well.

`EXACT` only moves or compares values, so that numpy gives XLA's bits. `ROUNDED` rounds in another order than
XLA may: it serves lifted replays, where bits do not matter. What is in neither is compiled by XLA; products and
sums are, so that a lifted replay has the backend's own dependence on shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[[Mapping[str, Any], Sequence[Array]], Any]


def _broadcast_in_dim(p: Mapping[str, Any], x: Sequence[Array]) -> Array:
    shape = [1] * len(p["shape"])
    for size, dim in zip(x[0].shape, p["broadcast_dimensions"], strict=True):
        shape[dim] = size
    return np.broadcast_to(x[0].reshape(shape), p["shape"])


def _slice(p: Mapping[str, Any], x: Sequence[Array]) -> Array:
    strides = p["strides"] or (1,) * x[0].ndim
    return x[0][tuple(slice(*w) for w in zip(p["start_indices"], p["limit_indices"], strides, strict=True))]


def _select(p: Mapping[str, Any], x: Sequence[Array]) -> Array:
    which, *cases = x
    return np.choose(which.astype(np.int64), cases) if len(cases) > 2 else np.where(which, cases[1], cases[0])


def _iota(p: Mapping[str, Any], x: Sequence[Array]) -> Array:
    shape = [1] * len(p["shape"])
    shape[p["dimension"]] = p["shape"][p["dimension"]]
    return np.broadcast_to(np.arange(p["shape"][p["dimension"]]).reshape(shape), p["shape"]).astype(p["dtype"])


EXACT: dict[str, Function] = {
    "reshape": lambda p, x: x[0].reshape(p["new_sizes"]) if p.get("dimensions") is None else NotImplemented,
    "transpose": lambda p, x: x[0].transpose(p["permutation"]),
    "broadcast_in_dim": _broadcast_in_dim,
    "squeeze": lambda p, x: x[0].reshape([n for i, n in enumerate(x[0].shape) if i not in p["dimensions"]]),
    "expand_dims": lambda p, x: np.expand_dims(x[0], tuple(p["dimensions"])),
    "slice": _slice,
    "concatenate": lambda p, x: np.concatenate(x, axis=p["dimension"]),
    "select_n": _select,
    "rev": lambda p, x: np.flip(x[0], p["dimensions"]),
    "iota": _iota,
    "stop_gradient": lambda p, x: x[0],
    "copy": lambda p, x: x[0],
    "copy_p": lambda p, x: x[0],
    "optimization_barrier": lambda p, x: list(x),
    "eq": lambda p, x: x[0] == x[1],
    "ne": lambda p, x: x[0] != x[1],
    "lt": lambda p, x: x[0] < x[1],
    "le": lambda p, x: x[0] <= x[1],
    "gt": lambda p, x: x[0] > x[1],
    "ge": lambda p, x: x[0] >= x[1],
}


def _logical(function: Callable[..., Array], bitwise: Callable[..., Array]) -> Function:
    return lambda p, x: function(*x) if x[0].dtype == bool else bitwise(*x)


def _integer_pow(p: Mapping[str, Any], x: Sequence[Array]) -> Any:
    y: int = p["y"]
    return x[0] ** y if y >= 0 else 1 / x[0] ** (-y)


def _logistic(p: Mapping[str, Any], x: Sequence[Array]) -> Array:
    e = np.exp(-np.abs(x[0]))
    return np.where(x[0] >= 0, 1 / (1 + e), e / (1 + e))


def _axes(function: Callable[..., Array]) -> Function:
    return lambda p, x: function(x[0], axis=tuple(p["axes"]))


ROUNDED: dict[str, Function] = {
    "add": lambda p, x: x[0] + x[1],
    "add_any": lambda p, x: x[0] + x[1],
    "sub": lambda p, x: x[0] - x[1],
    "mul": lambda p, x: x[0] * x[1],
    "neg": lambda p, x: -x[0],
    "abs": lambda p, x: np.abs(x[0]),
    "div": lambda p, x: x[0] / x[1] if x[0].dtype.kind in "fc" else NotImplemented,
    "max": lambda p, x: np.maximum(*x),
    "min": lambda p, x: np.minimum(*x),
    "exp": lambda p, x: np.exp(x[0]),
    "exp2": lambda p, x: np.exp2(x[0]),
    "log": lambda p, x: np.log(x[0]),
    "expm1": lambda p, x: np.expm1(x[0]),
    "log1p": lambda p, x: np.log1p(x[0]),
    "sin": lambda p, x: np.sin(x[0]),
    "cos": lambda p, x: np.cos(x[0]),
    "tanh": lambda p, x: np.tanh(x[0]),
    "sqrt": lambda p, x: np.sqrt(x[0]),
    "rsqrt": lambda p, x: 1 / np.sqrt(x[0]),
    "square": lambda p, x: np.square(x[0]),
    "sign": lambda p, x: np.sign(x[0]),
    "floor": lambda p, x: np.floor(x[0]),
    "logistic": _logistic,
    "integer_pow": _integer_pow,
    "pow": lambda p, x: np.power(*x),
    "is_finite": lambda p, x: np.isfinite(x[0]),
    "clamp": lambda p, x: np.minimum(np.maximum(x[1], x[0]), x[2]),
    "and": _logical(np.logical_and, np.bitwise_and),
    "or": _logical(np.logical_or, np.bitwise_or),
    "not": lambda p, x: np.logical_not(x[0]) if x[0].dtype == bool else np.bitwise_not(x[0]),
    "reduce_max": _axes(np.max),
    "reduce_min": _axes(np.min),
    "reduce_and": _axes(np.all),
    "reduce_or": _axes(np.any),
    "argmax": lambda p, x: np.argmax(x[0], axis=p["axes"][0]),
    "argmin": lambda p, x: np.argmin(x[0], axis=p["axes"][0]),
    "convert_element_type": lambda p, x: x[0].astype(p["new_dtype"]),
}


def carried_out(
    name: str, params: Mapping[str, Any], operands: Sequence[Any], outputs: Sequence[Any], *, rounded: bool
) -> list[Any] | None:
    """What a primitive gives on host arrays; None if it has to be compiled.

    Args:
        name: of the primitive.
        params: its parameters.
        operands: arrays or numbers.
        outputs: abstract values: results take their dtypes.
        rounded: also operations that may round in another order than XLA.
    """
    function = EXACT.get(name) or (ROUNDED.get(name) if rounded else None)
    if function is None or any(not isinstance(x, (np.ndarray, np.generic, int, float, bool)) for x in operands):
        return None
    with np.errstate(all="ignore"):
        found = function(params, [np.asarray(x) for x in operands])
    if found is NotImplemented:
        return None
    results = found if isinstance(found, list) else [found]
    made = [
        np.ascontiguousarray(np.asarray(r).astype(o.dtype, copy=False)).reshape(o.shape)
        for r, o in zip(results, outputs, strict=True)
    ]
    return list(made)
