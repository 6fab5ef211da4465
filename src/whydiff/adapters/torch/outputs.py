"""Tensors inside nested results, with the path by which a user would reach them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def tensors_in(value: Any, path: str = "", _above: tuple[int, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) for every tensor in mappings, sequences, dataclasses and plain objects, in order.

    A whole tensor has the path ``"output"``; a mapping's key and an attribute appear as ``a.b``, a position
    as ``[0]``. Modules, functions and types are not looked into.
    """
    if isinstance(value, torch.Tensor):
        yield path or "output", value
        return
    if id(value) in _above or len(_above) > 12:
        return
    above = (*_above, id(value))
    for name, item in _members(value):
        joined = path + name if name.startswith("[") else f"{path}.{name}".lstrip(".")
        yield from tensors_in(item, joined, above)


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _PLAIN) or isinstance(value, (torch.nn.Module, type)) or callable(value):
        return
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()


def unseen_in(value: Any) -> list[str]:
    """Types in a result that `tensors_in` cannot look into although they may hold tensors."""
    if isinstance(value, (torch.Tensor, *_PLAIN, Mapping, list, tuple)) or hasattr(value, "__dict__"):
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
