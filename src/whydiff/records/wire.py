"""Records as JSON-able data and back, so that another process can hand over what it found. Nothing is unpickled.

Whatever is no JSON value is a one-key object: ``{"record": [name, [fields in order]]}``, ``{"tuple": [...]}``,
``{"mapping": [[key, value], ...]}``, ``{"verdict": word}``, ``{"float": "nan" | "inf" | "-inf"}`` and ``{"complex":
[real, imaginary]}``. What else an evidence or an intervention holds is handed over as its text.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from whydiff.errors import harmless
from whydiff.records import finding


@functools.cache
def _records() -> Mapping[str, Any]:
    """Every record of this room, by name."""
    package = importlib.import_module("whydiff.records")
    homes = [
        importlib.import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)
    ]
    return {
        part.__name__: part
        for home in homes
        for part in vars(home).values()
        if dataclasses.is_dataclass(part) and isinstance(part, type) and part.__module__ == home.__name__
    }


def encode(value: Any) -> Any:
    """JSON-able data that `decode` turns into an equal value.

    Raises:
        TypeError: a dataclass that is no record.
    """
    if isinstance(value, finding.Verdict):
        return {"verdict": value.value}
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else {"float": str(number)}
    if isinstance(value, complex):
        return {"complex": [encode(value.real), encode(value.imag)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if _records().get(type(value).__name__) is not type(value):
            raise TypeError(f"{type(value).__name__} is no record of whydiff.records")
        fields = [encode(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {"record": [type(value).__name__, fields]}
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": [[encode(key), encode(item)] for key, item in value.items()]}
    plain = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else str(value)
    return encode(plain) if type(plain) is not type(value) else str(value)


def decode(data: Any) -> Any:
    """The value again; its texts are harmless to show.

    Raises:
        ValueError: not what `encode` makes.
    """
    if isinstance(data, str):
        return harmless(data)
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1 or next(iter(data)) not in _READERS:
        raise ValueError(f"no value is written like {data!r:.60}")
    kind, content = next(iter(data.items()))
    try:
        return _READERS[kind](content)
    except (TypeError, KeyError) as error:
        raise ValueError(f"no {kind} is written like {content!r:.60}") from error


def _record(content: Any) -> Any:
    name, values = content
    record = _records()[name]
    names = [field.name for field in dataclasses.fields(record)]
    return record(**dict(zip(names, map(decode, values), strict=True)))


_READERS: dict[str, Callable[[Any], Any]] = {
    "record": _record,
    "tuple": lambda items: tuple(decode(item) for item in items),
    "mapping": lambda pairs: {decode(key): decode(item) for key, item in pairs},
    "verdict": finding.Verdict,
    "float": lambda word: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[word],
    "complex": lambda parts: complex(decode(parts[0]), decode(parts[1])),
}
