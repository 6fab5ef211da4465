"""Tensors inside nested results, with the path by which a user would reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from whydiff.capturing.adapters._outputs import joined, members

_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def tensors_in(value: Any, path: str = "", _above: tuple[int, ...] = ()) -> Iterator[tuple[str, torch.Tensor]]:
    """(path, tensor) for every tensor in mappings, sequences, dataclasses and plain objects, in order.

    A whole tensor has the path ``"output"``; paths are those of `whydiff.capturing.adapters._outputs`. Modules,
    functions and types are not looked into.
    """
    if isinstance(value, torch.Tensor):
        yield path or "output", value
        return
    if id(value) in _above or len(_above) > 12 or isinstance(value, (*_PLAIN, torch.nn.Module)) or callable(value):
        return
    for step, item in members(value) or ():
        yield from tensors_in(item, joined(path, step), (*_above, id(value)))


def key_name(key: Any, number: int) -> str:
    """How a mapping's key appears in the name of a state tensor: as text if plain, else by its type and position."""
    return str(key) if isinstance(key, _PLAIN) else f"{type(key).__name__}#{number}"


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
