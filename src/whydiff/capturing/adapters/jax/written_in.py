"""In which framework a program is written: by what its code names and holds, without importing any.

An array says little: a PyTorch program that is held against a JAX one may take its input from a JAX array. What a
program is written in is shown by modules of a framework, its modules' and jitted functions' objects.
"""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Word = Literal["JAX", "JAX data", "another"]

_DEEP = 6
_MANY = 64
_OURS = ("jax", "jaxlib", "flax", "equinox", "penzai")
_OTHERS = ("torch",)


def is_jax(target: object, args: Sequence[Any]) -> bool:
    """Whether a target is written in JAX, or reaches JAX's arrays and nothing that is written in another framework."""
    words = _Walk().all((target, *args))
    return "JAX" in words or ("JAX data" in words and "another" not in words)


def is_foreign(result: Any) -> bool:
    """Whether what a program gave back holds another framework's values and none of JAX's."""
    words = _Walk().all((result,))
    return "another" in words and not words & {"JAX", "JAX data"}


class _Walk:
    """Everything that values reach, each once."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def all(self, values: Iterable[Any], depth: int = 0) -> set[Word]:
        return {word for value in values for word in self.of(value, depth)}

    def of(self, value: Any, depth: int) -> set[Word]:
        if id(value) in self.seen or depth > _DEEP:
            return set()
        self.seen.add(id(value))
        home = _home(value)
        if home in _OURS:
            return {"JAX data" if isinstance(value, sys.modules["jax"].Array) else "JAX"}
        words = self.all(_held(value), depth + 1)
        return words | {"another"} if home in _OTHERS else words


def _home(value: Any) -> str:
    """The package of a module, or of what kind a value is; of the frameworks' packages, if one is among its bases."""
    if isinstance(value, types.ModuleType):
        return value.__name__.partition(".")[0]
    homes = [base.__module__.partition(".")[0] for base in type(value).__mro__]
    return next((home for home in homes if home in (*_OURS, *_OTHERS)), "")


def _held(value: Any) -> Sequence[Any]:
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        return (value.__self__, value.__func__)
    if isinstance(value, types.FunctionType):
        return _reached(value)
    if isinstance(value, Mapping):
        return list(value.values())[:_MANY]
    if isinstance(value, (list, tuple)):
        return value[:_MANY]
    if isinstance(value, (type, types.ModuleType)):
        return ()
    return list(getattr(value, "__dict__", {}).values())[:_MANY]


def _reached(function: types.FunctionType) -> list[Any]:
    """What a function closes over, its defaults, and what its code names among its globals."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # an empty cell holds nothing yet
            continue
    found = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for name in function.__code__.co_names:
        item = function.__globals__.get(name)
        foreign = isinstance(item, types.FunctionType) and item.__module__ != function.__module__
        if item is not None and not foreign and not isinstance(item, type):
            found.append(item)
    return found
