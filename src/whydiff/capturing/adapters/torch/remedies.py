"""Modes in which ops are carried out in another way, to try what makes a difference go away."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.capturing.adapters.torch.invariant import BatchInvariant
from whydiff.capturing.adapters.torch.operators import Decomposing, Operator
from whydiff.errors import UsageError


class Upcast(Decomposing):
    """While it is active, the named ops read their floating inputs in a wider dtype and round their results."""

    def __init__(self, ops: Collection[str], dtype: torch.dtype) -> None:
        super().__init__()
        self.ops, self.dtype = frozenset(ops), dtype

    def op(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """What takes the place of an op."""
        if operator.op not in self.ops or operator.written_names:
            return func(*args, **kwargs)
        first = next((a.dtype for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()), None)
        if first is None:
            return func(*args, **kwargs)
        wide = [self._wide(a) for a in args]
        result = func(*wide, **{name: self._wide(value) for name, value in kwargs.items()})
        return _narrow(result, self.dtype, first)

    def _wide(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.to(self.dtype)
        if isinstance(value, (list, tuple)):
            return type(value)(self._wide(item) for item in value)
        return value


def _narrow(result: Any, wide: torch.dtype, dtype: torch.dtype) -> Any:
    if isinstance(result, torch.Tensor):
        return result.to(dtype) if result.dtype is wide else result
    if isinstance(result, (list, tuple)):
        return type(result)(_narrow(item, wide, dtype) for item in result)
    return result


class Contiguous(Decomposing):
    """While it is active, the named ops read contiguous copies that begin at an aligned address."""

    def __init__(self, ops: Collection[str]) -> None:
        super().__init__()
        self.ops = frozenset(ops)

    def op(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """What takes the place of an op."""
        if operator.op in self.ops and not operator.written_names:
            args = tuple(
                a.clone(memory_format=torch.contiguous_format) if isinstance(a, torch.Tensor) else a for a in args
            )
        return func(*args, **(kwargs))


def _sdpa(ops: Sequence[str], value: Any) -> AbstractContextManager[Any]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(getattr(SDPBackend, value or "MATH"))


REMEDIES: dict[str, Callable[[Sequence[str], Any], AbstractContextManager[Any]]] = {
    "fixed-row-chunks": lambda ops, value: BatchInvariant(ops, value or 16),
    "upcast": lambda ops, value: Upcast(ops, dtype_of(value or "float32")),
    "contiguous": lambda ops, value: Contiguous(ops),
    "sdpa-backend": _sdpa,
}
"""Name → (ops, value) → mode."""


def remedy(name: str, ops: Sequence[str], value: Any = None) -> AbstractContextManager[Any]:
    """The mode of a remedy.

    Args:
        name: of `REMEDIES`.
        ops: operator names without namespace.
        value: rows of a piece, a dtype's name, a backend's name.

    Raises:
        UsageError: no such remedy, or it cannot be applied to one of the ops.
    """
    if name not in REMEDIES:
        raise UsageError("There is no such remedy.", actual=name, expected=", ".join(REMEDIES))
    return REMEDIES[name](ops, value)
