"""Parameters of primitives as JSON-able data, and back.

How a scatter joins two numbers is a program of JAX's own, which is made for their dtype.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.ops import MOVES, Fixed, Op
from whydiff.capturing.adapters.jax.values import dtype_name, is_key
from whydiff.errors import ReplayError
from whydiff.records import Call

_ENUMS = {
    cls.__name__: cls
    for cls in (lax.GatherScatterMode, lax.Precision, lax.RandomAlgorithm, lax.FftType, lax.DotAlgorithmPreset)
}
_RECORDS = {
    cls.__name__: cls
    for cls in (lax.GatherDimensionNumbers, lax.ScatterDimensionNumbers, lax.ConvDimensionNumbers, lax.DotAlgorithm)
}


def template(op: Op) -> list[Any]:
    """``[operands, parameters]`` of an operation; ``{"$read": i}`` stands for the i-th tensor that it reads."""
    operands: list[Any] = []
    number, usual = 0, _usual(op.inputs)
    for spot in op.inputs:
        if isinstance(spot, Fixed):
            operands.append(_plain_number(spot.value, usual))
        else:
            operands.append({"$read": number} | ({"$key": str(spot.dtype)} if is_key(spot) else {}))
            number += 1
    return [operands, {name: encode(value) for name, value in sorted(op.params.items())}]


def _usual(inputs: Sequence[Any]) -> str:
    """The dtype that a plain number among the operands has: that of the first floating tensor."""
    dtypes = [dtype_name(spot.dtype) for spot in inputs if not isinstance(spot, Fixed)]
    return next((name for name in dtypes if name.startswith(("float", "bfloat"))), "float32")


def _plain_number(value: Any, usual: str) -> Any:
    """A number without its dtype where `number_of` restores it, so that it reads like any argument."""
    dtype = str(getattr(value, "dtype", ""))
    if dtype == usual:
        return float(value)
    if dtype == "int32":
        return int(value)
    if dtype == "bool":
        return bool(value)
    return encode(value)


def number_of(operand: Any, usual: str) -> Any:
    """The number that an operand's template stands for, with its dtype."""
    if isinstance(operand, bool):
        return np.bool_(operand)
    if isinstance(operand, int):
        return np.int32(operand)
    if isinstance(operand, float):
        return jax.numpy.dtype(usual).type(operand)
    return decode(operand)


def edited(op: Op, call: Call) -> Op:
    """An operation with the arguments that a call has now."""
    operands, params = call.arguments
    before = template(op)
    usual = _usual(op.inputs)
    inputs = tuple(
        Fixed(number_of(operand, usual), operand if type(operand) is float else None)
        if operand != old and not _is_read(operand)
        else spot
        for spot, operand, old in zip(op.inputs, operands, before[0], strict=True)
    )
    changed = {name: decode(value) for name, value in params.items() if before[1].get(name) != value}
    return replace(op, inputs=inputs, params={**op.params, **changed}, cache={})


def encode(value: Any) -> Any:
    """JSON-able form of one parameter; what has none becomes ``{"$opaque": type}``."""
    if value is None or isinstance(value, (bool, str)) or type(value) in (int, float):
        return value
    if isinstance(value, enum.Enum):
        return {"$enum": [type(value).__name__, value.name]}
    if (isinstance(value, tuple) and hasattr(value, "_fields")) or (
        dataclasses.is_dataclass(value) and type(value).__name__ in _RECORDS
    ):
        names = value._fields if hasattr(value, "_fields") else [f.name for f in dataclasses.fields(value)]
        return {"$record": [type(value).__name__, {name: encode(getattr(value, name)) for name in names}]}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return {"$dtype": np.dtype(value).name}
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and not is_key(value) and np.ndim(value) == 0:
        return {"$number": [str(value.dtype), _number(value)]}
    if isinstance(value, (int, float, complex)):  # JAX's weakly typed numbers
        number = [value.real, value.imag] if isinstance(value, complex) else value.real
        return {"$number": [str(getattr(value, "dtype", type(value).__name__)), number]}
    if is_key(value) or type(value).__name__ == "PRNGImpl":
        return {"$opaque": "random key"}
    return {"$opaque": type(value).__name__}


def _number(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind == "c":
        return [float(array.real), float(array.imag)]
    return array.item() if array.dtype.kind in "biuf" else float(array.astype(np.float64))


def decode(value: Any) -> Any:
    """The parameter again; lists come back as tuples, as JAX keeps them.

    Raises:
        ReplayError: it was not recorded in a form that can be given again.
    """
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    if not isinstance(value, Mapping):
        return value
    kind, content = next(iter(value.items()))
    if kind == "$dtype":
        return jax.numpy.dtype(content)
    if kind == "$number":
        return jax.numpy.dtype(content[0]).type(content[1]) if content[0] not in ("int", "float") else content[1]
    if kind == "$enum" and content[0] in _ENUMS:
        return _ENUMS[content[0]][content[1]]
    if kind == "$record" and content[0] in _RECORDS:
        return _RECORDS[content[0]](**{name: decode(item) for name, item in content[1].items()})
    raise ReplayError(
        "A parameter cannot be given again.",
        actual=f"{kind} {content}",
        expected="plain data",
        next_step="compare with a live run, which keeps the equations themselves",
    )


def op_of(call: Call) -> Op:
    """The operation of a call that was read from a trace on disk.

    Raises:
        ReplayError: JAX has no such primitive, or a parameter was not recorded.
    """
    name = call.target.removeprefix("jax.")
    operands, params = call.arguments
    avals: Sequence[Any] = [jax.ShapeDtypeStruct(e.spec.shape, jax.numpy.dtype(e.spec.dtype)) for e in call.reads]
    outputs = tuple(jax.ShapeDtypeStruct(e.spec.shape, jax.numpy.dtype(e.spec.dtype)) for e in call.writes)
    if name in MOVES:
        return Op(name, None, {key: decode(item) for key, item in params.items()}, tuple(avals), outputs)
    inputs: list[Any] = []
    usual = _usual(avals)
    for operand in operands:
        if isinstance(operand, Mapping) and "$key" in operand:
            raise ReplayError("A random key cannot be given again.", where=str(call.site))
        inputs.append(avals[operand["$read"]] if _is_read(operand) else Fixed(number_of(operand, usual)))
    scatters = name in SCATTERS
    given = {key: None if scatters and key in REMADE else decode(item) for key, item in params.items()}
    if scatters:
        given = joining(name, [one.value if isinstance(one, Fixed) else one for one in inputs], given)
    return Op(name, primitive(name), given, tuple(inputs), outputs)


def taken(call: Call, reads: Sequence[Any]) -> list[Any]:
    """Of the values that a call reads those that its operands take: one may have been given a number in a tensor's place."""
    operands, _ = call.arguments
    return [reads[one["$read"]] for one in operands if _is_read(one)]


def _is_read(operand: Any) -> bool:
    return isinstance(operand, Mapping) and "$read" in operand


def primitive(name: str) -> Any:
    """JAX's own primitive of a name (no callbacks, no foreign calls).

    Raises:
        ReplayError: there is none.
    """
    known = internals.own_primitives()
    if name not in known:
        raise ReplayError("JAX has no such primitive.", actual=name, expected="one of its numerical primitives")
    return known[name]


SCATTERS: Mapping[str, Any] = {
    "scatter-add": jax.lax.scatter_add,
    "scatter-mul": jax.lax.scatter_mul,
    "scatter-min": jax.lax.scatter_min,
    "scatter-max": jax.lax.scatter_max,
}
REMADE = ("update_jaxpr", "update_consts")
"""Parameters that hold that program."""
_TOLD = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")


def joining(name: str, operands: Sequence[Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """A scatter's parameters with the program that joins numbers of the operands' dtype; it is what the name says.

    Args:
        name: one of `SCATTERS`.
        operands: numbers or abstract values.
        params: recorded, of whatever dtype.
    """
    scatter = functools.partial(SCATTERS[name], **{key: params[key] for key in _TOLD})
    program = jax.make_jaxpr(scatter)(*operands)
    (made,) = (one.params for one in program.eqns if one.primitive.name == name)
    return {**params, **{key: made[key] for key in REMADE if key in params}}
