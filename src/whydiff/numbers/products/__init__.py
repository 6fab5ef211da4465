"""Sums of products at chosen places of a matrix product, in float64: 4096 outputs of K terms cost O(4096 K).

Factors are read as they are stored and widened where they are multiplied: of a large operand a sample needs little, and in
float64 it would be four times as large. The compiled way (`_kernel`) adds in the order of the plain one: same bits.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.numbers.kernels import kernel_of, worth_loading
from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import is_integer, values

Array = np.ndarray[Any, Any]
Change = Callable[[Array], Array]
Summed = Callable[[Array, Array], Sequence[Array]]

_PIECE, _SHARE = 1 << 15, 64
"""Factors that are multiplied at once: with what is made of them, they fit a core's cache. Pieces that one core adds up."""
_ROWS, _ROWS_ACROSS = 256, 4096
"""Outputs at once; of an operand whose rows lie across its memory, more share each line of the cache."""
_NUMPY_TERM, _NUMBA_LOADS, _KERNEL_LOADS = 7e-9, 0.5, 0.05
"""Seconds: of a term in plain numpy, of loading numba, and of loading a kernel where numba is there (speed only)."""

_spent = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Operand:
    """One side of a matrix product.

    Attributes:
        bits: ``[B, rows, K]``, the terms last, in any layout, as a payload keeps them.
        dtype: the true dtype's name.
    """

    bits: Array
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(B, rows, K)``."""
        batch, rows, terms = self.bits.shape
        return batch, rows, terms

    @property
    def across(self) -> bool:
        """Whether its rows lie across its memory: it is transposed."""
        strides = self.bits.strides
        return strides[-1] > self.bits.itemsize and strides[-2] < strides[-1]

    def wide(self, bits: Array) -> Array:
        """Some of its elements in float64; whole numbers as they are."""
        found = values(bits, self.dtype)
        return found if is_integer(self.dtype) else found.astype(np.float64, copy=False)


Chosen = tuple[Operand, Array, Array]
"""An operand, and the batch and the row of it that every output needs."""
AS_THEY_ARE: tuple[Change, Change] = (np.asarray, np.asarray)


def product_at(left: Operand, right: Operand, index: Array, changes: tuple[Change, Change] = AS_THEY_ARE) -> Array:
    """Outputs of a product.

    Args:
        left: ``[B, M, K]``.
        right: ``[B, N, K]``.
        index: flat positions in ``[B, M, N]``.
        changes: applied to the elements of both before they are multiplied (rounding, say), to each alone.

    Returns:
        float64, one per index.
    """

    def summed(a: Array, b: Array) -> list[Array]:
        return [np.einsum("ks,ks->s", a, b)]

    return np.asarray(_added((left, right), index, summed, changes)[0])


def sums_at(left: Operand, right: Operand, index: Array) -> Array:
    """Outputs of a product, with the sums of its terms' magnitudes and squares; as `product_at`.

    Returns:
        float64 ``[3, outputs]``: ``sum(terms)``, ``sum(abs(terms))``, ``sum(terms ** 2)``.
    """

    def summed(a: Array, b: Array) -> list[Array]:
        terms = a * b
        sums, squares = terms.sum(axis=0), np.einsum("ks,ks->s", terms, terms)
        return [sums, np.abs(terms, out=terms).sum(axis=0), squares]

    return _added((left, right), index, summed, AS_THEY_ARE)


def _added(sides: tuple[Operand, Operand], index: Array, summed: Summed, changes: tuple[Change, Change]) -> Array:
    """What a function makes of the factors of every output, ``[terms, outputs]`` each, added over all terms.

    Factors are gathered in pieces that fit a core's cache: of an operand whose rows lie across its memory a few terms of
    many outputs, else many terms of a few.
    """
    _, m, k = sides[0].shape
    n = sides[1].shape[1]
    batch, rest = np.divmod(index, m * n)
    lines = np.divmod(rest, n)
    across = any(side.across for side in sides)
    rows = _ROWS_ACROSS if across else _ROWS
    band = max(1, _PIECE // min(rows, max(index.size, 1)))
    alone = index.size % rows == 1  # numpy adds the terms of one output in another order than those of several
    kernel = _kernel_for(index.size * k) if across and not alone else None
    places, pieces = [], []
    for at in range(0, index.size, rows):
        part = slice(at, at + rows)
        chosen = [(side, batch[part], line[part]) for side, line in zip(sides, lines, strict=True)]
        piece = (
            _plain(chosen, summed, changes, band, across)
            if kernel is None
            else _compiled(chosen, kernel, changes, band)
        )
        for begin in range(0, max(k, 1), _SHARE * band):
            places.append(part)
            pieces.append((piece, slice(begin, min(begin + _SHARE * band, k))))
    found = spread(lambda piece, terms: piece(terms), pieces)
    added = np.zeros((len(found[0]) if found else 1, index.size))
    for part, sums in zip(places, found, strict=True):
        added[: len(sums), part] += sums
    return added


def _plain(
    chosen: Sequence[Chosen], summed: Summed, changes: tuple[Change, Change], band: int, across: bool
) -> Callable[[slice], Array]:
    """What adds up some terms of some outputs, in numpy."""

    def piece(terms: slice) -> Array:
        total = []
        for first in range(terms.start, max(terms.stop, 1), band):
            some = slice(first, min(first + band, terms.stop))
            factors = [change(_gathered(*one, some, across)) for one, change in zip(chosen, changes, strict=True)]
            total.append(np.stack(summed(*factors)))
        return np.asarray(np.sum(total, axis=0))

    return piece


def _compiled(
    chosen: Sequence[Chosen], kernel: Any, changes: tuple[Change, Change], band: int
) -> Callable[[slice], Array]:
    """The same, compiled: every line that some output needs is widened once."""
    (left, rows), (right, columns) = (_lines(*one) for one in chosen)

    def piece(terms: slice) -> Array:
        factors = [change(lines(terms)) for lines, change in zip((left, right), changes, strict=True)]
        sums = np.zeros((3, rows.size))
        kernel(*(np.asarray(factor, np.float64) for factor in factors), rows, columns, band, sums)
        return sums

    return piece


def _lines(operand: Operand, batch: Array, rows: Array) -> tuple[Callable[[slice], Array], Array]:
    """Some terms of the lines of an operand that are needed, ``[lines, terms]``, and which of these every output needs."""
    first, last = int(rows.min()), int(rows.max()) + 1
    if last - first <= 2 * rows.size and (batch == batch[0]).all():
        return lambda terms: operand.wide(operand.bits[batch[0], first:last, terms]), rows - first
    needed, at = np.unique(batch * operand.shape[1] + rows, return_inverse=True)
    where = np.divmod(needed, operand.shape[1])
    return lambda terms: operand.wide(operand.bits[where[0], where[1], terms]), at.reshape(-1)


def _gathered(operand: Operand, batch: Array, rows: Array, terms: slice, across: bool) -> Array:
    """``operand[batch, rows, terms]`` transposed, in memory as the other operand is: terms or outputs first."""
    if not across:
        return operand.wide(operand.bits[batch, rows, terms]).T
    first, last = rows.min(), rows.max() + 1
    if last - first > 2 * rows.size or (batch != batch[0]).any():
        return np.ascontiguousarray(operand.wide(operand.bits[batch, rows, terms]).T)
    near = np.ascontiguousarray(operand.wide(operand.bits[batch[0], first:last, terms]).T)
    return np.asarray(np.take(near, rows - first, axis=1))


def _kernel_for(terms: int) -> Any:
    """Plain numpy until this process has spent on it what loading the compiled way takes; the values are the same."""
    global _spent
    _spent += terms * _NUMPY_TERM
    if _spent < (_KERNEL_LOADS if "numba" in sys.modules else _NUMBA_LOADS) or not worth_loading("products"):
        return None
    return _loaded()


@functools.cache
def _loaded() -> Any:
    found = kernel_of("products")
    return found and found.banded
