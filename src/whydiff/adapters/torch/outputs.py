"""Tensors inside nested results, with the path by which a user would reach them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def tensors_in(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) for every tensor in mappings, sequences and dataclasses, in order.

    A whole tensor has the path ``"output"``; a mapping's key and an attribute appear as ``a.b``, a position
    as ``[0]``.
    """
    if isinstance(value, torch.Tensor):
        yield path or "output", value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        fields = getattr(value, "_fields", None)
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{path}.{fields[index]}".lstrip(".") if fields else f"{path}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), f"{path}.{field.name}".lstrip("."))


def unseen_in(value: Any) -> list[str]:
    """Types of results that may hold tensors but that `tensors_in` does not look into."""
    if isinstance(value, (torch.Tensor, *_PLAIN)):
        return []
    if isinstance(value, Mapping):
        return [name for item in value.values() for name in unseen_in(item)]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [name for item in value for name in unseen_in(item)]
    if dataclasses.is_dataclass(value):
        return []
    return [type(value).__name__]


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nesting of lists, tuples and dicts with every tensor changed; other objects are kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return type(value)(**{k: map_tensors(v, change) for k, v in value.items()}) if _stringy(value) else {
            k: map_tensors(v, change) for k, v in value.items()
        }
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def _stringy(value: dict[Any, Any]) -> bool:
    return type(value) is not dict and all(isinstance(key, str) for key in value)
