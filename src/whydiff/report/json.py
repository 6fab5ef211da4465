"""The diagnosis as strict JSON, for machines."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

from whydiff.errors import harmless
from whydiff.records import Diagnosis, Site
from whydiff.report.answer import answer
from whydiff.report.base import Reporter

_string = json.encoder.encode_basestring
_strict = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_PLAIN: dict[type, Callable[[Any], str]] = {
    str: _string,
    int: int.__repr__,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
    float: lambda value: float.__repr__(value) if math.isfinite(value) else _strict(value),
}
"""How scalars of these types are written; any other as ``json.dumps`` does."""


class JsonReporter(Reporter):
    """Every field of the Diagnosis under its own name, in the records' order, and ``answer``.

    ``schema_version`` comes first and grows when a field changes its meaning or goes; new fields may be
    added within a version. Verdicts are their words; a site is its fields and its ``text``. JSON has no
    non-finite numbers: they are the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. ``answer`` holds
    the five sentences that people read (`whydiff.report.answer.Answer`); its words are not stable.

    Args:
        indent: spaces per level; None for one line.
    """

    suffixes = (".json",)

    def __init__(self, indent: int | None = 2) -> None:
        self.indent = indent

    def to_dict(self, diagnosis: Diagnosis) -> dict[str, Any]:
        """The whole document as JSON-able data (dict, list, str, int, float, bool, None)."""
        return document(encode(diagnosis), encode(answer(diagnosis)))

    def render(self, diagnosis: Diagnosis) -> str:
        """The document as one JSON text."""
        return write(self.to_dict(diagnosis), self.indent)


def document(fields: dict[str, Any], answer: dict[str, Any], version: int = 1) -> dict[str, Any]:
    """A record's encoded fields as a document: the version of its schema and the answer come first."""
    return {"schema_version": fields.pop("schema_version", version), "answer": answer, **fields}


def write(data: Any, indent: int | None = 2) -> str:
    """JSON-able data as one strict JSON text, ending with a newline."""
    if indent is None:
        return _strict(data) + "\n"
    return _text(data, "\n", " " * indent) + "\n"


def _text(value: Any, line: str, indent: str) -> str:
    """What ``json.dumps(value, indent=…)`` gives, in a third of its time; ``line``: a line feed and what begins a line."""
    written = _PLAIN.get(type(value))
    if written is not None:
        return written(value)
    inner = line + indent
    if isinstance(value, dict) and value:
        pairs = [f"{_key(key)}: {_text(item, inner, indent)}" for key, item in value.items()]
        return "{" + inner + f",{inner}".join(pairs) + line + "}"
    if isinstance(value, (list, tuple)) and value:
        return "[" + inner + f",{inner}".join([_text(item, inner, indent) for item in value]) + line + "]"
    return _strict(value)


def _key(key: Any) -> str:
    return _string(key) if isinstance(key, str) else _string(_text(key, "", ""))


def encode(value: Any) -> Any:
    """Records, mappings, sequences and scalars as JSON-able data; anything else as its type and repr.

    Control characters, marks that turn the direction of writing, and halves of surrogate pairs (in a hostile trace's
    names, or a file name that is no UTF-8) become visible escapes.
    """
    kind: Any = type(value)
    plain = _ENCODED.get(kind)
    if plain is not None:
        return plain(value)
    names = _fields(kind)
    if names is not None:
        data = {name: encode(getattr(value, name)) for name in names}
        return {**data, "text": encode(str(value))} if isinstance(value, Site) else data
    if isinstance(value, enum.Enum):
        return encode(value.value)
    if isinstance(value, str):
        return harmless(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return _sequence(value)
    if isinstance(value, Set):
        return sorted((encode(item) for item in value), key=repr)
    if hasattr(value, "tolist"):  # arrays and scalars of array libraries
        return encode(value.tolist())
    return {"type": type(value).__name__, "repr": harmless(repr(value))}


@functools.cache
def _fields(kind: Any) -> tuple[str, ...] | None:
    """Names of a record's fields; None: it is no record."""
    plain = any(base in kind.__mro__ for base in (enum.Enum, str, int, float))
    if plain or not dataclasses.is_dataclass(kind):
        return None
    return tuple(field.name for field in dataclasses.fields(kind))


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {harmless(str(key)): encode(item) for key, item in value.items()}


def _sequence(value: Iterable[Any]) -> list[Any]:
    return [encode(item) for item in value]


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _itself(value: Any) -> Any:
    return value


_ENCODED: dict[type, Callable[[Any], Any]] = {
    str: harmless,
    int: _itself,
    bool: _itself,
    type(None): _itself,
    float: _float,
    dict: _mapping,
    list: _sequence,
    tuple: _sequence,
}
"""Of the types that nearly every value has; what `encode` makes of others it finds out by what they are."""


REGISTER = JsonReporter
