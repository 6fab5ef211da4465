"""Carry a sum out again along a revealed tree, bit for bit, on any machine.

numpy does the float32 additions (IEEE 754, to nearest even). A fused multiply-add is done in float64 with
rounding to odd (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
rounding to odd", IEEE Trans. Computers 57(4), 2008): float64 has more than 2 · 24 + 2 bits, so rounding
to odd first and to float32 afterwards equals one rounding.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from whydiff.explain.reduction.tree import Tree

Array = npt.NDArray[Any]
BLOCK = 4096
"""Outputs carried through a tree at a time: their partial sums stay in the processor's cache."""


class Product(enum.Enum):
    """How a product enters the sum."""

    NONE = "no products"
    FUSED = "fused multiply-add"
    ROUNDED = "multiply, round, add"
    MIXED = "some products fused, the others rounded first"


@dataclass(frozen=True)
class Terms:
    """The terms of a sum for some outputs.

    Attributes:
        left: (K, S) float32 or float64; the terms themselves if there is no ``right``.
        right: (K, S) of the same dtype, or None.
        plain: ids of leaves that are added as they are (a bias): ``left`` holds their value, ``right`` 1.
        exact: every product is exact in the accumulator (16-bit inputs), so fused and rounded are the same.
    """

    left: Array
    right: Array | None = None
    plain: frozenset[int] = frozenset()
    exact: bool = False

    def at(self, where: npt.NDArray[Any]) -> Terms:
        """Those of some outputs."""
        right = None if self.right is None else self.right[:, where]
        return Terms(self.left[:, where], right, self.plain, self.exact)

    @property
    def products(self) -> tuple[Product, ...]:
        """The uniform ways in which these terms can be summed that may differ in bits, likeliest first."""
        if self.right is None:
            return (Product.NONE,)
        return (Product.ROUNDED,) if self.exact else (Product.FUSED, Product.ROUNDED)


def emulate(tree: Tree, terms: Terms, product: Product, fused: Collection[int] = ()) -> Array:
    """Sum along a tree.

    A fused leaf's product is added with one rounding to what was there before: a partial sum, a bias, or the
    rounded product of another leaf. With `Product.FUSED` every leaf is fused (the larger one of two leaves that
    are added to each other). A node of more than two children adds them exactly and rounds once (matrix units
    cut terms off before that, each in its own way: the replay then fails).

    Args:
        tree: over K leaves.
        terms: (K, S) in the accumulator's dtype.
        product: how products enter.
        fused: the leaves whose product is fused, with `Product.MIXED`.

    Returns:
        (S,) in the dtype of the terms.
    """
    size = terms.left.shape[1]
    starts = range(0, size, BLOCK)
    leaves = frozenset({Product.FUSED: range(tree.leaves), Product.MIXED: fused}.get(product, ())) - terms.plain
    parts = [_block(tree, terms, leaves, slice(start, min(start + BLOCK, size))) for start in starts]
    return np.concatenate(parts) if parts else terms.left[0]


def _block(tree: Tree, terms: Terms, fused: frozenset[int], part: slice) -> Array:
    left = np.ascontiguousarray(terms.left[:, part])
    right = None if terms.right is None else np.ascontiguousarray(terms.right[:, part])
    rounded = left if right is None else left * right
    wide = (left.astype(np.float64), right.astype(np.float64)) if fused and right is not None else None
    partial: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        for index, children in enumerate(tree.nodes):
            last = max((child for child in children if child in fused), default=None)
            if len(children) > 2 or wide is None or last is None:
                values = [partial.pop(child) if child >= tree.leaves else rounded[child] for child in children]
                total = values[0] + values[1] if len(values) == 2 else _add_exactly(values)
            else:
                (first,) = (child for child in children if child != last)
                addend = partial.pop(first) if first >= tree.leaves else rounded[first]
                total = fused_multiply_add(wide[0][last], wide[1][last], addend)
            partial[tree.leaves + index] = total
    return partial[tree.root] if tree.nodes else rounded[0].copy()


def fused_multiply_add(left: Array, right: Array, addend: Array) -> Array:
    """``left * right + addend`` with one rounding.

    Args:
        left: float64 array that holds float32 values (real float64 values would be rounded twice).
        right: likewise.
        addend: float32.

    Returns:
        float32.
    """
    exact = left * right
    wide = addend.astype(np.float64)
    total = exact + wide
    # Knuth's TwoSum: what the addition lost
    back = total - exact
    lost = (exact - (total - back)) + (wide - back)
    bits = total.view(np.int64)
    # to odd: if something was lost and the last bit is even, the neighbour on the side of the loss
    step = np.where((lost > 0) == (total > 0), 1, -1) * ((lost != 0) & (bits & 1 == 0))
    odd: Array = (bits + step).view(np.float64)
    return odd.astype(np.float32)


def _add_exactly(values: Sequence[Array]) -> Array:
    """Sum of a few arrays with one rounding (float64 with its error carried along)."""
    total = values[0].astype(np.float64)
    lost = np.zeros_like(total)
    for value in values[1:]:
        wide = value.astype(np.float64)
        new = total + wide
        back = new - total
        lost += (total - (new - back)) + (wide - back)
        total = new
    return (total + lost).astype(values[0].dtype)
