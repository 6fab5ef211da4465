"""Which operators a trace from a stranger may name, told from their schemas alone, and what its calls are held to.

An operator is one of PyTorch's own if the dispatcher knows its schema under ``aten`` or ``prims``. It may be executed if
all that it can do is to make or change the tensors that it is given: see `refusal`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.roles import Role
from whydiff.capturing.adapters.torch.arguments import encode
from whydiff.capturing.adapters.torch.roles import NAMES
from whydiff.errors import ReplayError
from whydiff.records import Call

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


_CONTRACTING = (Role.PRODUCT, Role.MATRIX, Role.CONVOLUTION, Role.ATTENTION)
_INDICES = ("index", "indices", "lengths", "offsets", "target", "targets", "batch_sizes")
"""How arguments end, by the schemas' naming, that say where elements lie."""
_COMPRESSED = ("_convert_indices_from_coo_to_csr", "_convert_indices_from_csr_to_coo")
"""Their first argument holds indices under the name ``self``."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@functools.cache
def contracts(op: str) -> bool:
    """Whether an op multiplies and sums, so that it takes more operations than it sees numbers."""
    return any(op in NAMES.get(role, ()) for role in _CONTRACTING)


def check_indices(func: Any, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Hold index-like arguments to the size of what the call looks at: some kernels read wherever they point.

    Raises:
        ReplayError: an index points beyond the largest value that the call reads or writes.
    """
    names = _index_arguments(func)
    if not names:
        return
    most = max((event.spec.numel for event in (*call.reads, *call.writes)), default=0)
    numbers = {number for number in (*args, *kwargs.values()) if type(number) is int}  # an index to be ignored, say
    for position, name in names:
        given = args[position] if position < len(args) else kwargs.get(name)
        for tensor in _tensors(given):
            low, high = (int(bound) for bound in torch.aminmax(tensor))
            if any(not -most <= bound <= most and bound not in numbers for bound in (low, high)):
                raise ReplayError(
                    "An index points beyond everything that the call looks at.",
                    where=str(call.site),
                    actual=f"{name} holds {low} to {high}",
                    expected=f"at most {most} in size",
                )


def takes_indices(func: Any) -> bool:
    """Whether an op has arguments that `check_indices` looks into."""
    return bool(_index_arguments(func))


@functools.cache
def _index_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    found = [(i, argument.name) for i, argument in enumerate(func._schema.arguments)]
    named = [(i, name) for i, name in found if name.endswith(_INDICES)]
    return tuple([found[0], *named] if func._schema.name.partition("::")[2] in _COMPRESSED else named)


def _tensors(given: Any) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        if given.layout is torch.strided and given.dtype in _INTEGERS and given.numel() and not given.is_meta:
            yield given
    elif isinstance(given, (list, tuple)):
        for item in given:
            yield from _tensors(item)
