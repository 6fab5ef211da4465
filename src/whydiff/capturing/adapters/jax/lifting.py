"""Lifting: recorded operations carried out in float32 or float64, with the same values.

Floating operands are widened exactly, dtypes among the parameters follow, products ask for the highest precision.
Integers, booleans, random bits and operations on bits stay what they are. What cannot be lifted is executed at
its recorded precision and counted. The contract is `whydiff.records.Lift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from whydiff.capturing.adapters._live import not_lifted
from whydiff.capturing.adapters.jax import internals, values
from whydiff.capturing.adapters.jax.arguments import SCATTERS, joining
from whydiff.capturing.adapters.jax.ops import MOVES, Fixed, Op
from whydiff.records import Call, Count, Event, Lift

_BITWISE = frozenset(
    {"bitcast_convert_type", "random_bits", "random_wrap", "random_unwrap", "random_seed", "nextafter"}
)
_FAILURES = (TypeError, ValueError, RuntimeError, NotImplementedError, AssertionError, KeyError)


def floating(dtype: Any) -> bool:
    """Whether a dtype (or its name) holds real or complex floating-point numbers."""
    if isinstance(dtype, str):
        return dtype.startswith(("float", "bfloat", "complex"))
    return bool(jax.dtypes.issubdtype(dtype, np.inexact))


def lifted_dtype(dtype: Any, wide: str, *, everything: bool = False) -> Any:
    """The dtype in which values of a recorded dtype are carried; integers, booleans and keys stay.

    Args:
        dtype: recorded.
        wide: ``"float32"`` or ``"float64"``.
        everything: float64 values are carried in ``wide`` too.
    """
    if not floating(dtype):
        return dtype
    complex_ = jax.dtypes.issubdtype(dtype, np.complexfloating)
    widest = np.dtype(np.complex128 if complex_ else np.float64)
    if wide == "float64" or (dtype == widest and not everything):
        return widest
    return np.dtype(np.complex64 if complex_ else np.float32)


def lifted_params(params: Mapping[str, Any], change: Callable[[Any], Any], *, highest: bool = True) -> dict[str, Any]:
    """Parameters with floating dtypes changed, and products at the highest precision (or as they were)."""
    found: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
            found[name] = change(np.dtype(value))
        elif name == "precision" and highest:
            found[name] = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
        else:
            found[name] = value
    return found


def stays(op: Op) -> bool:
    """Whether an operation has no other precision: on bits, or with programs of its own."""
    return op.name in _BITWISE or (bool(internals.programs_in(op.params)) and op.name not in SCATTERS)


def carried_in(op: Op, change: Callable[[Any], Any], *, highest: bool = True) -> Op:
    """An operation with floating operands, results and parameters in another dtype."""
    inputs = tuple(_spot(spot, change) for spot in op.inputs)
    outputs = tuple(_spot(spot, change) for spot in op.outputs)
    params = lifted_params(op.params, change, highest=highest)
    if op.name in SCATTERS:
        params = joining(op.name, [one.value if isinstance(one, Fixed) else one for one in inputs], params)
    return replace(op, inputs=inputs, outputs=outputs, params=params, cache={})


def _spot(spot: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(spot, Fixed):
        number = spot.value
        dtype = getattr(number, "dtype", None)
        if dtype is None or not floating(dtype):
            return spot
        exact = spot.exact if spot.exact is not None else np.asarray(number, dtype)
        return Fixed(np.asarray(exact).astype(change(dtype)), spot.exact)
    if values.is_key(spot) or not floating(spot.dtype):
        return spot
    return jax.ShapeDtypeStruct(spot.shape, change(spot.dtype))


def widened(dtype: str) -> Callable[[Any, Sequence[Any]], list[Any]]:
    """How to execute an equation with every narrower float carried in ``dtype`` (for `tapped.Plan`)."""

    def change(recorded: Any) -> Any:
        return lifted_dtype(recorded, dtype)

    def execute(eqn: Any, given: Sequence[Any]) -> list[Any]:
        wide = [_cast(value, change) for value in given]
        if eqn.primitive.name in SCATTERS:
            return internals.bind(eqn.primitive, wide, joining(eqn.primitive.name, wide, eqn.params))
        if eqn.primitive.name not in _BITWISE and not internals.programs_in(eqn.params):
            return internals.bind(eqn.primitive, wide, lifted_params(eqn.params, change))
        narrow = [_as(value, var.aval) for value, var in zip(given, eqn.invars, strict=True)]
        return [_cast(out, change) for out in internals.bind(eqn.primitive, narrow, eqn.params)]

    return execute


def _cast(value: Any, change: Callable[[Any], Any]) -> Any:
    dtype = getattr(value, "dtype", None)
    if dtype is None or not floating(dtype) or change(dtype) == dtype:
        return value
    return value.astype(change(dtype))


def _as(value: Any, aval: Any) -> Any:
    return value.astype(aval.dtype) if hasattr(value, "astype") and floating(aval.dtype) else value


class Lifter:
    """Executes operations wide for one replay, and counts what it could not lift.

    Args:
        lift: how.
    """

    def __init__(self, lift: Lift) -> None:
        self.lift = lift
        self.not_lifted: dict[str, list[str]] = {}
        self.flips: list[str] = []
        self._noise = np.random.default_rng(lift.seed or 0)

    def context(self) -> Any:
        """64-bit dtypes, where they are needed."""
        wide = self.lift.dtype == "float64" or not self.lift.everything
        return internals.x64(True) if wide else nullcontext()

    def dtype(self, recorded: Any) -> Any:
        """The dtype in which a recorded one is carried."""
        return lifted_dtype(recorded, self.lift.dtype, everything=self.lift.everything)

    def widen(self, value: Any) -> Any:
        """The same numbers, wide."""
        return _cast(value, self.dtype)

    def apply(self, op: Op, call: Call, reads: Sequence[Any]) -> list[Any]:
        """An operation on wide operands."""
        with self.context():
            wide = [self.widen(read) for read in reads]
            if op.name in MOVES:
                return op.apply(wide)
            if self._stays(op):
                return self._as_recorded(op, reads)
            try:
                outs = self._wide(op).apply(wide, rounded=True)
            except _FAILURES as error:
                reason = f"{op.name}: {type(error).__name__}"
                self.not_lifted.setdefault(reason, []).append(str(call.site))
                return self._as_recorded(op, reads)
            outs = [self.widen(out) for out in outs]
            if self.lift.seed is not None:
                outs = [self._noisy(out, event) for out, event in zip(outs, call.writes, strict=True)]
            elif self.lift.casts == "kept":
                outs = [self._rounded(out, event, call) for out, event in zip(outs, call.writes, strict=True)]
            self._note_discrete(call, outs)
            return outs

    def _stays(self, op: Op) -> bool:
        """Whether an operation is executed as recorded: bits, programs of its own, floats made from no floats."""
        if stays(op):
            return True
        reads = [spot for spot in op.inputs if not isinstance(spot, Fixed)]
        made_from_none = not any(floating(spot.dtype) for spot in reads if not values.is_key(spot))
        return self.lift.casts == "kept" and made_from_none and bool(reads)

    def _as_recorded(self, op: Op, reads: Sequence[Any]) -> list[Any]:
        spots = [spot for spot in op.inputs if not isinstance(spot, Fixed)]
        narrow = [_as(read, spot) for read, spot in zip(reads, spots, strict=True)]
        return [self.widen(out) for out in op.apply(narrow)]

    def _wide(self, op: Op) -> Op:
        key = f"{self.lift.dtype} {self.lift.everything}"
        if key not in op.cache:
            op.cache[key] = carried_in(op, self.dtype)
        found: Op = op.cache[key]
        return found

    def _rounded(self, out: Any, event: Event, call: Call) -> Any:
        """Round what the recorded program rounded: an output narrower than every floating input."""
        inputs = [e.spec.dtype for e in call.reads if floating(e.spec.dtype)]
        if not inputs or not floating(event.spec.dtype):
            return out
        if _epsilon(event.spec.dtype) <= max(map(_epsilon, inputs)):
            return out
        return out.astype(event.spec.dtype).astype(out.dtype)

    def _noisy(self, out: Any, event: Event) -> Any:
        """An output rounded to its recorded dtype: up with the probability of the part cut off.

        Values that the dtype holds stay as they are. Source: Parker, *Monte Carlo Arithmetic*, UCLA
        CSD-970002, 1997 (random rounding).
        """
        recorded = event.spec.dtype
        if not floating(recorded) or recorded.startswith("complex") or str(out.dtype) == recorded:
            return out
        wide = np.asarray(out)
        nearest = wide.astype(recorded).astype(wide.dtype)
        unit = np.ldexp(np.full_like(wide, _epsilon(recorded)), np.frexp(wide)[1] - 1)
        with np.errstate(all="ignore"):
            noise = self._noise.random(wide.shape, dtype=np.float64).astype(wide.dtype)
            moved = (wide + (noise - 0.5) * unit).astype(recorded).astype(wide.dtype)
        return np.where((nearest == wide) | ~np.isfinite(moved), nearest, moved)

    def _note_discrete(self, call: Call, outs: Sequence[Any]) -> None:
        if not any(floating(event.spec.dtype) for event in call.reads):
            return
        for event, out in zip(call.writes, outs, strict=True):
            if event.fingerprint is None or floating(event.spec.dtype) or values.is_key(out):
                continue
            if values.fingerprint(values.host(out)) != event.fingerprint:
                self.flips.append(str(event.site))

    def counts(self) -> tuple[Count, ...]:
        """What stayed as recorded, with reasons, and discrete choices that flip."""
        return tuple(not_lifted(self.not_lifted, self.flips, self.lift.dtype))


def _epsilon(dtype: str) -> float:
    return float(jax.numpy.finfo(dtype).eps)
