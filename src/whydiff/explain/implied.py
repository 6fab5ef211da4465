"""A value that one side stores and the other computes: does rounding what is stored explain that they differ?

A merged adapter, a removed weight norm, a folded scale: the product was rounded to its dtype when it was stored, and so
were the factors. Each number may be half a unit in its last place away from the one that was meant. Values that lie
within that of each other are one function; beyond it something else was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.numbers.formats import FORMATS
from whydiff.numbers.tolerance import SCALING_FLOOR

Array = np.ndarray[Any, Any]
Function = Callable[[Sequence[Array]], Array]

_BLOCKS = 64
"""Evaluations that a matrix may take; a wider one is not looked at."""
_TRIALS = 16
"""Ways in which all stored numbers are moved at once, up or down by half a unit. Where a few of them dominate, one
way moves them all alike; where many add up, the largest of 16 random sums is three times what they really do."""


@dataclass(frozen=True, slots=True)
class Implied:
    """A stored tensor held against what the other side's stored numbers imply.

    Attributes:
        worst: the largest difference over what rounding explains there; at most 1: rounding explains all of it.
        dtype: in which the value is stored.
        elements: how many were compared.
        moves: whether moving the other side's stored numbers moves the value at all.
        differs: whether the two are apart by more than float64 rounds; else nothing stored is what differs.
    """

    worst: float
    dtype: str
    elements: int
    moves: bool = True
    differs: bool = True

    @property
    def is_rounding(self) -> bool:
        """Whether there is a difference, and no element lies farther away than rounding explains."""
        return self.differs and self.worst <= 1.0


def implied(
    stored: Array,
    dtype: str,
    function: Function,
    reads: Sequence[Array],
    dtypes: Sequence[str | None],
    row: Callable[[Sequence[Array], int], Array] | None = None,
) -> Implied | None:
    """Hold stored numbers against a function of other stored numbers.

    Args:
        stored: float64 values of the tensor that one side stores.
        dtype: that it is stored in.
        function: what the other side computes, in float64.
        reads: what it computes it from, float64.
        dtypes: per read the dtype that it is stored in; None: it is exact.
        row: one row of the function's result alone, where that is cheaper: it is asked first, and decides where that row
            lies beyond what rounding explains, or nothing differs.

    Returns:
        None if the shapes differ, or a value is not finite.
    """
    if dtype not in FORMATS:
        return None
    computed = np.asarray(function(reads), np.float64)
    if computed.size != stored.size or not np.isfinite(computed).all() or not np.isfinite(stored).all():
        return None
    stored = stored.reshape(computed.shape)
    bound = _half(np.maximum(np.abs(stored), np.abs(computed)), dtype)
    apart = np.abs(stored - computed)
    differs = bool(np.max(apart, initial=0.0) > SCALING_FLOOR * np.max(np.abs(computed), initial=0.0))

    def held(apart: Array, bound: Array, moved: Array) -> Implied:
        return Implied(
            worst=float(np.max(apart / (bound + moved), initial=0.0)),
            dtype=dtype,
            elements=int(stored.size),
            moves=bool(np.any(moved > 0)),
            differs=differs,
        )

    if row is not None and computed.size:
        at = int(np.argmax(np.max(apart / bound, axis=tuple(range(1, apart.ndim)))))  # the farthest
        one = held(apart[at], bound[at], _moved(lambda given: row(given, at), reads, dtypes, computed[at]))
        if one.moves and not one.is_rounding:
            return one
    return held(apart, bound, _moved(function, reads, dtypes, computed))


def _moved(function: Function, reads: Sequence[Array], dtypes: Sequence[str | None], computed: Array) -> Array:
    """How far the result moves if every stored number moves by half a unit: the largest of some random ways."""
    if not any(dtypes):
        return np.zeros(computed.shape)
    random = np.random.default_rng(20250)
    furthest = np.zeros(computed.shape)
    for _ in range(_TRIALS):
        moved = [
            read if dtype is None else read + random.choice((-1.0, 1.0), read.shape) * _half(np.abs(read), dtype)
            for read, dtype in zip(reads, dtypes, strict=True)
        ]
        furthest = np.maximum(furthest, np.abs(np.asarray(function(moved), np.float64) - computed))
    return furthest


def _half(size: Array, dtype: str) -> Array:
    """Half a unit in the last place."""
    return np.asarray(FORMATS[dtype].quantum(size) / 2, np.float64)


@dataclass(frozen=True, slots=True)
class Rows:
    """An affine map that acts on every row of its one input alike: rows @ matrix + shift."""

    matrix: Array
    shift: Array


def as_rows(function: Callable[[Array], Array], x: Array, level: float) -> Rows | None:
    """The matrix of a function that maps rows of an input linearly, and what it adds; None if it does not.

    Args:
        function: input of the shape of ``x`` → output whose last axis holds a row's results.
        x: its input; what the matrix predicts for it is held against what the function gives.
        level: largest difference, over the size of the output.
    """
    width = x.shape[-1] if x.ndim else 0
    rows = x.size // width if width else 0
    wanted = function(x)
    if not rows or wanted.ndim == 0 or wanted.size % rows or width > _BLOCKS * rows:
        return None
    shift = function(np.zeros_like(x)).reshape(rows, -1)
    if not np.array_equal(shift, np.broadcast_to(shift[:1], shift.shape)):
        return None
    matrix = np.empty((width, shift.shape[1]))
    for start in range(0, width, rows):
        matrix[start : start + rows] = _block(function, x, start, shift)
    predicted = x.reshape(rows, width) @ matrix + shift
    size = float(np.sqrt(np.mean(np.square(wanted)))) or 1.0
    near = np.max(np.abs(predicted - wanted.reshape(rows, -1)), initial=0.0) <= level * size
    return Rows(matrix, shift[0]) if near else None


def one_row(function: Callable[[Array], Array], x: Array, at: int) -> Array:
    """Row ``at`` of the matrix that `as_rows` finds for such a function; beyond its rows what the function adds.

    Args:
        function: as for `as_rows`, which found a matrix for it; perhaps with other stored numbers.
        x: its input.
        at: 0 to the width of ``x``.
    """
    width = x.shape[-1]
    rows = x.size // width
    shift = function(np.zeros_like(x)).reshape(rows, -1)
    if at == width:
        return np.asarray(shift[0])
    start = at - at % rows
    return np.asarray(_block(function, x, start, shift)[at - start])


def _block(function: Callable[[Array], Array], x: Array, start: int, shift: Array) -> Array:
    """As many rows of the matrix from ``start`` on as the function has rows, and no more than there are."""
    rows, width = shift.shape[0], x.shape[-1]
    block = np.zeros((rows, width))
    count = min(rows, width - start)
    block[np.arange(count), start + np.arange(count)] = 1.0
    return np.asarray((function(block.reshape(x.shape)).reshape(rows, -1) - shift)[:count])
