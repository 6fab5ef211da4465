"""Activation functions by name, in float64, and a call's result computed by one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor
from whydiff.errors import ReplayError
from whydiff.explain.sites import read_at, sites_of, value_at
from whydiff.numbers.casts import rounded
from whydiff.numbers.metrics import values
from whydiff.pair.replay import Watch
from whydiff.records import Call, Event, Intervention, Payload, Trace

Array = np.ndarray[Any, Any]
COMPUTE, SCALE = "compute", "scale"
_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu(x: Array, form: str) -> Array:
    """GELU of float64 values: ``"none"`` (erf), ``"tanh"`` or ``"quick"`` (x * sigmoid(1.702 x)).

    Hendrycks and Gimpel, arXiv:1606.08415.
    """
    if form == "none":
        return np.asarray(0.5 * x * (1 + _gelu_erf(x)))
    if form == "tanh":
        return np.asarray(0.5 * x * (1 + _gelu_tanh(x)))
    return x * _sigmoid(1.702 * x)


def _gelu_erf(x: Array) -> Array:
    return np.asarray(_erf(x / math.sqrt(2)))


def _gelu_tanh(x: Array) -> Array:
    return np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _negative(x: Array, form: Callable[[Array], Array]) -> Array:
    return np.where(x > 0, x, form(np.minimum(x, 0.0)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "GELU (erf)": lambda x: gelu(x, "none"),
    "GELU (tanh)": lambda x: gelu(x, "tanh"),
    "quick GELU (x sigmoid(1.702 x))": lambda x: gelu(x, "quick"),
    "SiLU": lambda x: x * _sigmoid(x),
    "ReLU": lambda x: np.maximum(x, 0.0),
    "squared ReLU": lambda x: np.square(np.maximum(x, 0.0)),
    "leaky ReLU (0.01)": lambda x: _negative(x, lambda v: 0.01 * v),
    "ELU": lambda x: _negative(x, np.expm1),
    "softplus": _softplus,
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "erf": _erf,
    "the erf(x / √2) of GELU": _gelu_erf,
    "the tanh(√(2/π) (x + 0.044715 x³)) of GELU": _gelu_tanh,
    "no activation": lambda x: x,
    "the square": np.square,
    "the absolute value": np.abs,
}
"""Activations by name; sources: the papers above and PyTorch's documentation of ``torch.nn``."""


def computing(trace: Trace, interventions: Sequence[Intervention]) -> Watch | None:
    """Who gives calls the results that an activation makes of a value that was read; None: nobody.

    Args:
        trace: of the replay that is watched.
        interventions: those named ``compute`` count: target a written value, value (a read of the same shape that the
            run comes to before, or in the same call; the activation's name).

    Raises:
        ReplayError: there is no such value, or another shape.
    """
    chosen = [item for item in interventions if item.name == COMPUTE]
    if not chosen:
        return None
    by_site = sites_of(trace)
    readers: dict[int, list[tuple[int, Event]]] = {}
    writers: dict[int, list[tuple[int, Event, str]]] = {}
    for number, item in enumerate(chosen):
        (call, slot), (reader, position) = value_at(by_site, item.target, "writes"), read_at(by_site, item.value[0])
        read, written = reader.reads[position], call.writes[slot]
        if read.spec.shape != written.spec.shape or reader.index > call.index or position in reader.mutates:
            raise ReplayError("A value cannot be computed from another one.", where=item.target, actual=str(item))
        readers.setdefault(reader.index, []).append((number, read))
        writers.setdefault(call.index, []).append((number, written, item.value[1]))
    kept: dict[int, Array] = {}

    def watch(executor: Executor, call: Call) -> None:
        for number, read in readers.get(call.index, ()):
            payload = executor.payload(executor.read(read))
            kept[number] = np.asarray(values(payload.bits, payload.dtype), dtype=np.float64)
        for number, written, name in writers.get(call.index, ()):
            _put(executor, written, ACTIVATIONS[name](kept[number]))

    return watch


def multiplying(trace: Trace, interventions: Sequence[Intervention]) -> Watch | None:
    """Who multiplies what calls wrote; None: nobody.

    Args:
        trace: of the replay that is watched.
        interventions: those named ``scale`` count: target a written value, value the factor.

    Raises:
        ReplayError: there is no such value.
    """
    by_site = sites_of(trace) if any(item.name == SCALE for item in interventions) else {}
    factors: dict[int, list[tuple[Event, float]]] = {}
    for item in interventions:
        if item.name == SCALE:
            call, slot = value_at(by_site, item.target, "writes")
            factors.setdefault(call.index, []).append((call.writes[slot], float(item.value)))

    def watch(executor: Executor, call: Call) -> None:
        for written, factor in factors.get(call.index, ()):
            payload = executor.payload(executor.read(written))
            _put(executor, written, np.asarray(values(payload.bits, payload.dtype), dtype=np.float64) * factor)

    return watch if factors else None


def _put(executor: Executor, written: Event, made: Array) -> None:
    """What a call wrote is something else, rounded once.

    Raises:
        ReplayError: it cannot be put there.
    """
    held = executor.payload(executor.read(written)).dtype
    payload = Payload(np.ascontiguousarray(made).reshape(np.shape(made)), "float64")
    if not executor.overwrite(written, executor.adopt_foreign(rounded(payload, held))):
        raise ReplayError("A value cannot be put in another's place.", where=str(written.site))


__all__ = ["ACTIVATIONS", "COMPUTE", "SCALE", "computing", "gelu", "multiplying"]
