"""What a run gave back, of whatever type, as inert values (`whydiff.records.Output`): one walk for all frameworks.

| value | becomes |
|---|---|
| a framework's tensor | numbers, or the parts of which it consists (sparse: indices and values …): `Reader` |
| numpy array, ``array.array`` and whatever shows itself as an array | numbers; records and objects by their parts |
| bool, int, float, complex, numpy's scalars | numbers; an integer beyond 64 bits: text |
| str, bytes, paths, dates, enumerations, ranges, fractions | text |
| mapping, sequence, named tuple, dataclass, object with attributes | its members |
| set | text if it holds plain values |
| None, an empty container | empty |
| function that holds values (a closure, a bound method, a partial) | what it holds |
| any other function, type, plain module of Python | left out |
| anything else | unreadable: it may hold numbers |

A path is unambiguous: a text key that could be a name is ``.key``, every other key, position and number ``[…]`` as
Python writes it, so that ``0`` and ``"0"``, or ``a.b`` and ``{a: {b}}``, stay apart.
"""

from __future__ import annotations

import abc
import array
import dataclasses
import datetime
import enum
import functools
import numbers
import pathlib
import re
import struct
import types
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from whydiff.numbers.pieces import same_bits
from whydiff.records import Output, Payload, Slot, TensorSpec

MAX_DEPTH = 64
"""Deepest nesting that is looked into; what lies deeper is unreadable."""
MAX_VALUES = 100_000
"""Values that are looked at; what comes after them is one unreadable value."""

_NAME = re.compile(r"[\w/-]+")
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_TEXTS = (
    bytes,
    bytearray,
    memoryview,
    str,
    pathlib.PurePath,
    datetime.date,
    datetime.time,
    datetime.timedelta,
    datetime.tzinfo,
    enum.Enum,
    range,
    slice,
    uuid.UUID,
    numbers.Number,
)
_NO_NUMBERS = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    types.GenericAlias,
    types.NotImplementedType,
    types.EllipsisType,
)
_NUMERIC = "biufc"

Step = str
"""One part of a path as it is written: ``.name`` or ``[key]``."""


class Reader(abc.ABC):
    """How a framework's own values are read; the defaults suit a framework that has only arrays."""

    @abc.abstractmethod
    def tensor(self, value: Any) -> Payload | str | None:
        """A tensor's numbers; why it cannot be read; None for what is no plain tensor."""

    def parts(self, value: Any) -> Iterable[tuple[Step, Any]] | None:
        """What a value of this framework consists of; None for what is none, or is read like any other object."""
        return None

    def text(self, value: Any) -> str | None:
        """A value of this framework that is a mere word (a dtype, a device); None for what is none."""
        return None


@runtime_checkable
class _ShowsAnArray(Protocol):
    def __array__(self) -> Any: ...


def outputs_of(value: Any, reader: Reader, number: int = 0) -> tuple[Output, ...]:
    """Everything inside what a run gave back, in order; a value that is in no container has the path ``output``.

    Args:
        value: what was returned; it is not changed, and nothing is consumed.
        reader: of the framework.
        number: how many returns came before.
    """
    return tuple(_Walk(reader, number).visit(value, "", ()))


def same_outputs(first: Sequence[Output], second: Sequence[Output]) -> tuple[bool, str]:
    """Whether two results have the same structure and bits, and where they do not."""
    if [one.slot for one in first] != [one.slot for one in second]:
        return False, "the structure of the result"
    for one, other in zip(first, second, strict=True):
        if one.kind != other.kind or one.text != other.text:
            return False, str(one.slot)
        if one.payload is None or other.payload is None:
            continue
        bits = one.payload.bits, other.payload.bits
        if one.payload.dtype != other.payload.dtype or bits[0].shape != bits[1].shape:
            return False, str(one.slot)
        if not same_bits(*bits):
            return False, str(one.slot)
    return True, ""


def joined(path: str, step: Step) -> str:
    """A path and one more step; a first name stands without its dot."""
    return step.removeprefix(".") if not path else path + step


def key_step(key: Any, number: int) -> Step:
    """How a mapping's key is written; one that is not plain by its type and position."""
    if isinstance(key, str) and _NAME.fullmatch(key):
        return f".{key}"
    plain = isinstance(key, _PLAIN) or (isinstance(key, tuple) and all(isinstance(part, _PLAIN) for part in key))
    return f"[{key!r}]" if plain else f"[{type(key).__name__}#{number}]"


def members(value: Any) -> Iterable[tuple[Step, Any]] | None:
    """What a container or an object of Python holds; None for what is neither."""
    if isinstance(value, Mapping):
        return [(key_step(key, number), item) for number, (key, item) in enumerate(value.items())]
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # what makes a tuple a named one
        return [(f".{name}", item) for name, item in zip(value._fields, value, strict=True)]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    held = vars(value) if _has_attributes(value) else {}
    slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        slots += [item.name for item in dataclasses.fields(value)]
    found = [(f".{name}", item) for name, item in held.items()]
    missing = object()
    for name in dict.fromkeys(slots):
        item = missing if name in held else getattr(value, name, missing)
        if item is not missing:
            found.append((f".{name}", item))
    if not found and _hides(value, len(slots)):
        return None
    return found if found or slots or _has_attributes(value) else None


def _held(value: Any) -> list[tuple[Step, Any]]:
    """What a function carries along: its closure, or the object it is bound to."""
    if isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        filled = [(f".{name}", cell.cell_contents) for name, cell in cells if cell != types.CellType()]
        return [(name, item) for name, item in filled if not isinstance(item, weakref.ref)]
    owner = value.__self__ if isinstance(value, (types.MethodType, types.BuiltinFunctionType)) else None
    return [] if owner is None or isinstance(owner, _NO_NUMBERS) else [(".__self__", owner)]


def _hides(value: Any, slots: int) -> bool:
    """Whether a type keeps more than its attributes: an exception its arguments, a buffer its bytes."""
    known = object.__basicsize__ + (slots + 2) * struct.calcsize("P")  # besides: its attributes, its weak references
    return type(value).__basicsize__ > known


def _has_attributes(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict)


def _slots(kind: type) -> tuple[str, ...]:
    if kind.__module__ == "builtins":
        return ()
    names = kind.__dict__.get("__slots__", ())
    named = (names,) if isinstance(names, str) else tuple(names)
    return tuple(
        f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in named
        if name not in ("__dict__", "__weakref__")
    )


class _Walk:
    def __init__(self, reader: Reader, number: int) -> None:
        self.reader, self.number = reader, number
        self.seen = 0
        self.held: dict[int, tuple[Any, Payload]] = {}

    def _output(self, path: str, kind: Any, value: Any, **what: Any) -> Output:
        return Output(Slot(self.number, path or "output"), kind, type(value).__name__, **what)

    def visit(self, value: Any, path: str, above: tuple[int, ...]) -> Iterator[Output]:
        """The outputs inside a value; ``above``: ids of the containers around it."""
        self.seen += 1
        if self.seen > MAX_VALUES:
            if self.seen == MAX_VALUES + 1:
                text = f"only {MAX_VALUES} values of the result are looked at"
                yield self._output(path, "unreadable", value, text=text)
            return
        if id(value) in above:
            depth = len(above) - above.index(id(value))
            yield self._output(path, "text", value, text=f"itself, {depth} levels up")
            return
        if len(above) > MAX_DEPTH:
            yield self._output(path, "unreadable", value, text=f"nested deeper than {MAX_DEPTH} levels")
            return
        alone = self._alone(value, path)
        if alone is not None:
            yield alone
            return
        inside = self.reader.parts(value)
        if inside is None:
            inside = _parts(value)
        if inside is None:
            text = f"{type(value).__name__} cannot be looked into"
            yield self._output(path, "unreadable", value, text=text)
            return
        found, fields = False, isinstance(value, tuple) and hasattr(value, "_fields")
        for number, (step, item) in enumerate(inside):
            found = True
            below = joined(path, step)
            for output in self.visit(item, below, (*above, id(value))):
                rest = (output.places or output.slot.name)[len(below) :]
                yield replace(output, places=joined(path, f"[{number}]") + rest) if fields else output
        if not found:
            yield self._output(path, "empty", value, text="empty")

    def _alone(self, value: Any, path: str) -> Output | None:
        """A value that is looked at as a whole."""
        if value is None:
            return self._output(path, "empty", value, text="None")
        read = self.held[id(value)][1] if id(value) in self.held else _numbers(value, self.reader)
        if isinstance(read, Payload):
            self.held[id(value)] = value, read  # what is returned at several places is copied once
            return self._output(path, "numbers", value, payload=read, spec=TensorSpec(read.bits.shape, read.dtype))
        if read is not None:
            return self._output(path, "unreadable", value, text=read)
        text = self.reader.text(value)
        if text is None:
            text = _text(value)
        if text is not None:
            return self._output(path, "text", value, text=text)
        if (isinstance(value, _NO_NUMBERS) and not _held(value)) or type(value) is object:
            return self._output(path, "left_out", value, text=type(value).__name__)
        return None


def _numbers(value: Any, reader: Reader) -> Payload | str | None:
    read = reader.tensor(value)
    if read is not None:
        return read
    if isinstance(value, enum.Enum):
        return None
    if isinstance(value, bool):
        return Payload(np.array(value), "bool")
    if isinstance(value, int):
        kind = np.int64 if -(2**63) <= value < 2**63 else np.uint64 if 0 <= value < 2**64 else None
        return None if kind is None else Payload(np.array(value, kind), np.dtype(kind).name)
    if isinstance(value, (float, complex)) and not isinstance(value, np.generic):
        name = "float64" if isinstance(value, float) else "complex128"
        return Payload(np.array(value, name), name)
    if isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        return _payload(np.asarray(value))
    return None


def _payload(found: np.ndarray[Any, Any]) -> Payload | None:
    """A host copy, little-endian and row-major; None for an array of something else than numbers."""
    name, width = found.dtype.name, found.dtype.itemsize
    if found.dtype.kind in _NUMERIC and name in np.sctypeDict and width <= (16 if found.dtype.kind == "c" else 8):
        return Payload(np.array(found, found.dtype.newbyteorder("="), order="C", copy=True, subok=False), name)
    if name == "bfloat16" or name.startswith("float8"):
        return Payload(np.array(found, order="C", copy=True).view(f"u{width}"), name)
    return None


def _text(value: Any) -> str | None:
    """What is compared as text; None for what is not."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ma.MaskedArray):
        return None
    if isinstance(value, (np.ndarray, np.generic)):
        whole = np.asarray(value)
        if whole.dtype.names is None and whole.dtype.kind != "O":
            return f"{whole.dtype} {whole.tolist()!r}"
        return None
    if isinstance(value, (bytearray, memoryview)):
        return repr(bytes(value))
    if isinstance(value, _TEXTS):
        return repr(value)
    if isinstance(value, AbstractSet) and value and all(isinstance(item, _PLAIN) for item in value):
        return f"{{{', '.join(sorted(map(repr, value)))}}}"
    return None


def _parts(value: Any) -> Iterable[tuple[Step, Any]] | None:
    """The members of what is no single value."""
    if isinstance(value, np.ma.MaskedArray):
        return [(".data", value.data), (".mask", np.ma.getmaskarray(value))]
    if isinstance(value, (np.ndarray, np.void)):
        names = value.dtype.names
        if names is not None:
            return [(key_step(name, number), value[name]) for number, name in enumerate(names)]
        return [(str(list(place)), item) for place, item in np.ndenumerate(value)]
    if isinstance(value, functools.partial):
        return [(".args", value.args), (".keywords", value.keywords)]
    if isinstance(value, BaseException):
        return [(".args", value.args), *(members(value) or ())]
    if isinstance(value, array.array):
        return [(".values", np.asarray(value))]
    if isinstance(value, _ShowsAnArray):
        return [(".values", np.asarray(value))]
    if isinstance(value, AbstractSet) and not value:
        return []
    if isinstance(value, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, AbstractSet)):
        return None
    return _held(value) or members(value)
