"""Strict JSON that keeps Python values: infinities, NaN, complex numbers, tuples and odd keys survive.

Outside of JSON's own values one-key objects are used: ``{"$float": "inf" | "-inf" | "nan"}``,
``{"$complex": [re, im]}``, ``{"$tuple": [...]}`` and ``{"$dict": [[key, value], ...]}`` (a mapping with keys
that are no strings, or that would be mistaken for one of these). Any other key (``"$read"`` too) is data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from whydiff.errors import CaptureError, harmless

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects that is written or read."""

_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKETS = re.compile(r"[\[\]{}]")

to_text: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Compact ASCII text of what `encode` returned."""


def encode(value: Any, depth: int = 0) -> Any:
    """The JSON form of a value (tags as in the module's docstring).

    Raises:
        CaptureError: a type that JSON cannot carry, or nesting deeper than `MAX_DEPTH`.
    """
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if depth > MAX_DEPTH - 8:  # room for the line and the tags around it
        raise CaptureError("A value is nested too deeply for a trace.", actual=f"deeper than {depth} levels")
    if isinstance(value, float):
        number = float(value)
        if math.isfinite(number):
            return number
        return {"$float": "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"}
    if isinstance(value, complex):
        return {"$complex": [encode(float(value.real)), encode(float(value.imag))]}
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, depth + 2) for item in value]}
    if isinstance(value, list):
        return [encode(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        mistaken = len(value) == 1 and next(iter(value)) in _TAGS
        if not mistaken and all(isinstance(key, str) for key in value):
            return {str.__str__(key): encode(item, depth + 1) for key, item in value.items()}
        return {"$dict": [[encode(key, depth + 3), encode(item, depth + 3)] for key, item in value.items()]}
    raise CaptureError(
        "A value cannot be written to a trace.",
        actual=f"{kind.__module__}.{kind.__qualname__}",
        expected="str, int, float, complex, bool, None, list, tuple or mapping",
        next_step="The adapter that recorded it has a defect: it must describe the value in JSON terms.",
    )


def decode(text: str) -> Any:
    """The value behind a text that `encode` and `to_text` wrote.

    Raises:
        ValueError: not strict JSON (duplicate keys, NaN, nesting beyond `MAX_DEPTH`, a bad tag …).
    """
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    return _DECODER.decode(text)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of a key that stands twice nobody knows which value counts.

    Raises:
        ValueError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"an object has the key {twice[:60]!r} twice")
    return found


def cleaned(value: Any) -> Any:
    """A decoded value whose texts, keys too, are harmless to show."""
    kind = type(value)
    if kind is str:
        return harmless(value)
    if kind is list:
        return [cleaned(item) for item in value]
    if kind is tuple:
        return tuple([cleaned(item) for item in value])
    if kind is dict:
        found = {cleaned(key): cleaned(item) for key, item in value.items()}
        if len(found) != len(value):
            raise ValueError("two keys look the same")
        return found
    return value


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0] in _TAGS:
        return _TAGS[pairs[0][0]](pairs[0][1])
    return once(pairs)


def _float(value: Any) -> float:
    if not isinstance(value, str) or value not in _FLOATS:
        raise ValueError(f"bad $float {value!r:.40}")
    return _FLOATS[value]


def _complex(value: Any) -> complex:
    if not isinstance(value, list) or [type(part) for part in value] != [float, float]:
        raise ValueError(f"bad $complex {value!r:.40}")
    return complex(*value)


def _tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"bad $tuple {value!r:.40}")
    return tuple(value)


def _dict(value: Any) -> dict[Any, Any]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError(f"bad $dict {value!r:.40}")
    try:
        found = dict(value)
    except TypeError as error:
        raise ValueError(f"bad $dict: {error}") from None
    if len(found) != len(value):
        raise ValueError("duplicate key in $dict")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"number out of range: {text:.40}")
    return number


_TAGS: dict[str, Callable[[Any], Any]] = {"$float": _float, "$complex": _complex, "$tuple": _tuple, "$dict": _dict}
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)
