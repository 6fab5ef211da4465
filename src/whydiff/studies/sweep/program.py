"""What is swept: a target, how its inputs are made at a size, and how both reach another process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.errors import UsageError
from whydiff.studies.sweep.findings import Size
from whydiff.takes import described

Loader = Callable[[], tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Program:
    """How to get at the target and its inputs in any process.

    Attributes:
        load: gives (target, inputs); it is pickled if cells run elsewhere.
        token: equal tokens are the same program; loaded programs are kept under it.
    """

    load: Loader
    token: str


@dataclass(frozen=True, slots=True)
class Given:
    """The loader of objects that are at hand (they are pickled whole if cells run in other processes)."""

    target: Any
    inputs: Any

    def __call__(self) -> tuple[Any, Any]:
        """The objects."""
        return self.target, self.inputs


def arguments(inputs: Any, size: Size) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments at a size.

    Args:
        inputs: a function of ``batch`` and ``length`` (either may be missing) that returns a tuple of arguments,
            a mapping of keyword arguments, or one argument; or such arguments themselves at the largest size,
            from which rows (dimension 0) and positions (dimension 1) are cut.
        size: the size.

    Raises:
        UsageError: a size is asked for that the inputs do not have.
    """
    given = inputs(**_asked(inputs, size)) if callable(inputs) else cut(inputs, size)
    several = isinstance(given, (Mapping, tuple, list))
    if several and not given:
        raise UsageError(
            "The target is given no inputs, so that every size is the same run.",
            where="inputs",
            actual=described(given),
            expected="arguments that have a batch or a length",
            next_step="let inputs(batch) return them, and let the target take them as arguments",
        )
    if isinstance(given, Mapping):
        return (), dict(given)
    return (tuple(given) if several else (given,)), {}


def _asked(inputs: Callable[..., Any], size: Size) -> dict[str, int]:
    asked = {name: value for name, value in (("batch", size.batch), ("length", size.length)) if value}
    try:
        parameters = inspect.signature(inputs).parameters
    except (TypeError, ValueError):  # a built-in callable: all sizes by name
        return asked
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in asked if name not in parameters and not anything]
    if unknown:
        raise UsageError(
            "The inputs cannot be made at this size.",
            where=", ".join(f"{n}={asked[n]}" for n in unknown),
            actual=f"inputs({', '.join(parameters)})",
            expected=f"inputs({', '.join(asked)})",
            next_step="give inputs() a parameter of that name, or leave the size out",
        )
    return asked


def cut(inputs: Any, size: Size) -> Any:
    """Rows and positions of arguments that are given at the largest size.

    Rows: of every tensor whose dimension 0 is as large as that of the first tensor; beyond the last row they
    begin again. Positions: of dimension 1, likewise by the first tensor that has one.
    """
    rows, positions = _sizes(inputs)
    if size.length and (not positions or size.length > positions):
        raise UsageError(
            "The inputs are not that long.",
            actual=f"length {positions or 'none'}",
            expected=str(size.length),
            next_step="give inputs at the largest length, or a function inputs(batch, length)",
        )

    if size.batch and not rows:
        raise UsageError(
            "There is nothing to cut rows from.",
            where="inputs",
            actual=described(inputs),
            expected="arrays at the largest batch, or a function inputs(batch)",
        )

    def one(value: Any) -> Any:
        shape = tuple(value.shape)
        if size.length and len(shape) > 1 and shape[1] == positions:
            value = value[:, : size.length]
        if size.batch and shape and shape[0] == rows:
            value = value[: size.batch] if size.batch <= rows else value[np.arange(size.batch) % rows]
        return value

    return mapped(inputs, one)


def _sizes(inputs: Any) -> tuple[int, int]:
    shapes: list[tuple[int, ...]] = []
    mapped(inputs, lambda value: shapes.append(tuple(value.shape)))
    rows = next((shape[0] for shape in shapes if shape), 0)
    return rows, next((shape[1] for shape in shapes if len(shape) > 1 and shape[0] == rows), 0)


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Nested arguments with every array changed."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return change(value)
    if isinstance(value, Mapping):
        return {name: mapped(item, change) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(mapped(item, change) for item in value)
    return value


def rows_of(inputs: Any) -> int:
    """How many rows arguments have that are given as they are; 0 if that is not known."""
    return 0 if callable(inputs) else _sizes(inputs)[0]


def sizes(text: str | int | Sequence[int]) -> tuple[int, ...]:
    """Sizes from ``"1,2,4"``, ``"61..128"``, a number, or a sequence of them; sorted, without repetition.

    Raises:
        UsageError: not whole numbers above 0.
    """
    if isinstance(text, int):
        text = str(text)
    parts = text.split(",") if isinstance(text, str) else [str(item) for item in text]
    found: set[int] = set()
    for part in parts:
        low, dots, high = part.strip().partition("..")
        try:
            first = int(low)
            last = int(high) if dots else first
        except ValueError:
            first, last = 0, 0
        if first < 1 or last < first:
            raise UsageError("This is no list of sizes.", actual=str(text), expected="such as 1,2,4 or 61..128")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
