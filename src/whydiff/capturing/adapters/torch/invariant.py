"""Ops carried out in pieces of one fixed shape, so that a row's bits do not depend on how many rows there are.

A kernel's order of summation is chosen from the shapes. Cut into pieces of ``rows`` rows (the last one filled
up with zeros), every call of the op has one shape, whatever the batch; that a row's bits do not depend on its
place within a piece or on the other rows is not assumed but tried (`whydiff.studies.sweep`). Idea: He and
Thinking Machines Lab, "Defeating Nondeterminism in LLM Inference", 2025 (batch-invariant kernels).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch

from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.operators import decomposed, describe
from whydiff.errors import UsageError

_Form = Callable[[Any, tuple[Any, ...], dict[str, Any], int], Any]


class BatchInvariant(Mode):
    """While it is active, the named ops are carried out in pieces of a fixed shape; the others as usual.

    Args:
        ops: names without namespace (``"addmm"``); those that have no such form raise.
        rows: rows of a piece for matrix products; items for batched ones, convolutions and attention are
            carried out one by one.
        scopes: gives the present module path; with ``sites`` only calls from these scopes are changed.

    Attributes:
        changed: op → how many calls were carried out in pieces.
    """

    def __init__(self, ops: Collection[str], rows: int = 16) -> None:
        super().__init__()
        unknown = sorted(set(ops) - set(FORMS))
        if unknown:
            raise UsageError(
                "No batch-invariant form of this op is known.",
                actual=", ".join(unknown),
                expected=", ".join(FORMS),
                next_step="name only ops of this list; the report says which ops varied",
            )
        if rows < 1:
            raise UsageError("A piece has at least one row.", actual=str(rows))
        self.ops, self.rows = frozenset(ops), rows
        self.changed: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.op in self.ops and operator.target.count(".") == 2 and not operator.written_names:
            self.changed[operator.op] = self.changed.get(operator.op, 0) + 1
            return FORMS[operator.op](func, args, kwargs, self.rows)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs)
        return func(*args, **kwargs)


def _pieces(rows: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Contiguous pieces of exactly ``size`` rows of dimension 0, the last one filled with zeros."""
    found = list(rows.split(size))
    last = found[-1]
    if last.shape[0] < size:
        full = rows.new_zeros((size, *rows.shape[1:]))
        full[: last.shape[0]] = last
        found[-1] = full
    return [piece.contiguous() for piece in found]


def _by_rows(op: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, size: int) -> torch.Tensor:
    if rows.shape[0] == 0:
        return op(rows)
    return torch.cat([op(piece) for piece in _pieces(rows, size)])[: rows.shape[0]]


def _mm(func: Any, args: Any, kwargs: Any, size: int) -> torch.Tensor:
    left, right = args
    return _by_rows(lambda piece: func(piece, right, **kwargs), left, size)


def _addmm(func: Any, args: Any, kwargs: Any, size: int) -> torch.Tensor:
    bias, left, right = args
    if bias.dim() == 2 and bias.shape[0] > 1:
        joined = zip(_pieces(bias, size), _pieces(left, size), strict=True)
        return torch.cat([func(b, piece, right, **kwargs) for b, piece in joined])[: left.shape[0]]
    return _by_rows(lambda piece: func(bias, piece, right, **kwargs), left, size)


def _items(positions: tuple[int, ...]) -> _Form:
    """One item of dimension 0 at a time, in all of the given tensor arguments together."""

    def form(func: Any, args: Any, kwargs: Any, size: int) -> Any:
        count = args[positions[0]].shape[0]
        results = []
        for item in range(count):
            own = [
                a[item : item + 1].contiguous()
                if n in positions and isinstance(a, torch.Tensor) and a.shape[0] == count
                else a
                for n, a in enumerate(args)
            ]
            named = {
                name: a[item : item + 1].contiguous()
                if isinstance(a, torch.Tensor) and a.dim() > 1 and a.shape[0] == count
                else a
                for name, a in kwargs.items()
            }
            results.append(func(*own, **named))
        return _joined(results, count)

    return form


def _joined(results: list[Any], count: int) -> Any:
    first = results[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(results)
    return type(first)(
        torch.cat(parts)
        if isinstance(parts[0], torch.Tensor) and parts[0].dim() and parts[0].shape[0] == 1 and count > 1
        else parts[0]
        for parts in zip(*results, strict=True)
    )


_PIECE = 4096
"""Elements of a piece of an elementwise op: a multiple of every SIMD width, below the grain of a thread."""


def _elementwise(func: Any, args: Any, kwargs: Any, size: int) -> torch.Tensor:
    tensor = args[0]
    flat = _by_rows(lambda piece: func(piece, *args[1:], **kwargs), tensor.reshape(-1), _PIECE)
    return flat.reshape(tensor.shape)


FORMS: dict[str, _Form] = {
    "mm": _mm,
    "addmm": _addmm,
    "bmm": _items((0, 1)),
    "baddbmm": _items((0, 1, 2)),
    "convolution": _items((0,)),
    "_scaled_dot_product_flash_attention_for_cpu": _items((0, 1, 2)),
    "_scaled_dot_product_flash_attention": _items((0, 1, 2)),
    "_scaled_dot_product_efficient_attention": _items((0, 1, 2, 3)),
    "_scaled_dot_product_cudnn_attention": _items((0, 1, 2, 3)),
} | dict.fromkeys(
    ["gelu", "silu", "exp", "rsqrt", "sqrt", "tanh", "sigmoid", "erf", "sin", "cos", "log", "reciprocal"], _elementwise
)
"""Op → how it is carried out in pieces."""
