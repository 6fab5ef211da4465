"""Which operators a trace from a stranger may name, told from their schemas alone.

An operator is one of PyTorch's own if the dispatcher knows its schema under ``aten`` or ``prims``. It may be executed if
all that it can do is to make or change the tensors that it is given: see `refusal`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch

from whydiff.capturing.adapters.torch.arguments import encode
from whydiff.errors import ReplayError

_TARGET = re.compile(r"([A-Za-z_]\w*)\.([A-Za-z_]\w*)\.(\w+)", re.ASCII)
_OWN = ("aten", "prims")
_NUMBERS = frozenset({"TensorType", "IntType", "SymIntType", "FloatType", "NumberType", "ComplexType", "BoolType"})
_HOW = frozenset({"StringType", "DeviceObjType", "GeneratorType", "ScalarTypeType", "LayoutType", "MemoryFormatType"})
_GIVEN, _GIVEN_BACK = _NUMBERS | _HOW, _NUMBERS | {"SymBoolType"}
"""Kinds of arguments and of results that are values: no storage, stream, class or name."""


@functools.cache
def lookup(target: str) -> Any:
    """The ``OpOverload`` of a registered schema, named ``namespace.operator.overload``.

    Raises:
        LookupError: torch's dispatcher knows no such schema.
    """
    parts = _TARGET.fullmatch(target)
    if parts is None:
        raise LookupError(f"{target!r:.80} does not name an operator")
    namespace, op, overload = parts.groups()
    name, schema_overload = f"{namespace}::{op}", "" if overload == "default" else overload
    try:
        torch._C._dispatch_find_schema_or_throw(name, schema_overload)
        found = getattr(getattr(getattr(torch.ops, namespace), op), overload)
    except (AttributeError, RuntimeError) as error:
        raise LookupError(f"{target} is not registered in torch {torch.__version__}") from error
    if not isinstance(found, torch._ops.OpOverload) or found.name() != ".".join(filter(None, (name, schema_overload))):
        raise LookupError(f"{target} is no operator of torch {torch.__version__}")
    return found


@functools.cache
def refusal(func: Any) -> str:
    """Why a stranger's trace may not have an operator executed; empty if it may.

    It is one of PyTorch's own; it is given values alone and gives back values alone; it makes or changes a tensor, or
    tells something of one; and a text that it is given does not say what it reads (a file's name), since it reads a
    tensor too.
    """
    schema = func._schema
    if schema.name.partition("::")[0] not in _OWN:
        return "it is none of PyTorch's own operators"
    given = {kind for argument in schema.arguments for kind in _kinds(argument.type)}
    back = {kind for result in schema.returns for kind in _kinds(result.type)}
    if strange := sorted((given - _GIVEN) | (back - _GIVEN_BACK)):
        return f"it takes or gives what is no value ({', '.join(strange)})"
    written = [argument for argument in schema.arguments if _written(argument)]
    filled = [argument for argument in written if argument.kwarg_only]
    read = any("TensorType" in _kinds(argument.type) for argument in schema.arguments if argument not in filled)
    if not written and not schema.returns:
        return "it gives nothing, so that whatever it does happens elsewhere"
    if not read and not written and "TensorType" not in back:
        return "it neither reads nor makes a tensor"
    if "StringType" in given and not read:
        return "it makes a tensor of what a text names"
    return ""


def _written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)


def _kinds(type_: Any) -> set[str]:
    """Kinds of value inside an argument's type; optional and listed ones count as what they hold."""
    kind = type_.kind()
    if kind in ("OptionalType", "ListType"):
        return _kinds(type_.getElementType())
    return set().union(*map(_kinds, type_.elements())) if kind == "TupleType" else {kind}


@functools.cache
def default_of(target: str, which: int | str) -> tuple[Any] | None:
    """The default, which the dispatcher drops, as an argument template; None: there is none, or no such operator here."""
    try:
        arguments = lookup(target)._schema.arguments
    except LookupError:
        return None
    found = [one for n, one in enumerate(arguments) if which in (n, one.name) and one.has_default_value()]
    try:
        return (encode(found[0].default_value),) if found else None
    except ReplayError:
        return None


@functools.cache
def name_of(target: str, which: int | str) -> str:
    """What an operator calls its argument at a position or by a name; empty: it has none there, or is not known here."""
    try:
        arguments = lookup(target)._schema.arguments
    except LookupError:
        return ""
    return next((str(one.name) for n, one in enumerate(arguments) if which in (n, one.name)), "")
