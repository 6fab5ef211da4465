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
    if isinstance(value, (*_PLAIN, torch.nn.Module, type)) or callable(value):
        return
    if isinstance(value, Mapping):
        yield from ((key_name(key, number), item) for number, (key, item) in enumerate(value.items()))
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))
    elif hasattr(value, "__dict__"):
        yield from vars(value).items()


def key_name(key: Any, number: int) -> str:
    """How a mapping's key appears in a path: as text if it is plain, else by its type and position."""
    return str(key) if isinstance(key, _PLAIN) else f"{type(key).__name__}#{number}"


def unseen_in(value: Any, _above: tuple[int, ...] = ()) -> list[str]:
    """Types in a result that `tensors_in` cannot look into although they may hold tensors."""
    if isinstance(value, (torch.Tensor, *_PLAIN, torch.nn.Module, type)) or callable(value):
        return []
    if id(value) in _above or len(_above) > 12:
        return []
    if not isinstance(value, (Mapping, list, tuple)) and not hasattr(value, "__dict__"):
        return [] if dataclasses.is_dataclass(value) else [type(value).__name__]
    return [name for _, item in _members(value) for name in unseen_in(item, (*_above, id(value)))]


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same nesting of lists, tuples and dicts with every tensor changed; other objects are kept."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return (
            type(value)(**{k: map_tensors(v, change) for k, v in value.items()})
            if _stringy(value)
            else {k: map_tensors(v, change) for k, v in value.items()}
        )
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(item, change) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(item, change) for item in value)
    return value


def _stringy(value: dict[Any, Any]) -> bool:
    return type(value) is not dict and all(isinstance(key, str) for key in value)
