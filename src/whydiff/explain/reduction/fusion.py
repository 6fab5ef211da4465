"""Reveal which products of a sum enter it fused, with one rounding, and which are rounded before they are added.

A kernel mixes both: lanes accumulate by fused multiply-adds, while a remainder that one lane holds alone is a
rounded product when the lanes are added. The tree does not tell (addition commutes, and masks are exact), but one
evaluation for every addition of a product does: that product is p = c · v, some term of the other side is −p, and
all else is zero. A fused product leaves p − round(p); a rounded one leaves nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whydiff.capturing.adapters import RecordedSum
from whydiff.explain.reduction.tree import Tree

_FACTOR, _VALUE = 1 + 2.0**-12, 1 + 2.0**-13
_ROUNDED, _REST = 1 + 2.0**-12 + 2.0**-13, 2.0**-25
"""``_FACTOR * _VALUE`` is exactly ``_ROUNDED + _REST``; float32 holds each, and rounds the product to ``_ROUNDED``."""


def fused_products(total: RecordedSum, tree: Tree, row: int, columns: npt.NDArray[np.int64]) -> frozenset[int] | None:
    """The leaves of a tree whose product is fused into the addition above them.

    Args:
        total: a float32 sum of products whose factors can be chosen.
        tree: the order in which it sums.
        row: where it is evaluated.
        columns: likewise; all are summed in that order.

    Returns:
        Ids of leaves, never both of two that are added to each other; None if some output is neither that of a
        fused product nor that of a rounded one.
    """
    pairs = [pair for node in tree.nodes if (pair := _pair(tree, node, total.plain)) is not None]
    if not pairs:
        return frozenset()
    values = np.zeros((len(pairs), total.leaves))
    for line, (leaf, other) in zip(values, pairs, strict=True):
        line[leaf], line[other] = _VALUE, -_ROUNDED if other in total.plain else -_VALUE
    factors = np.full(total.leaves - len(total.plain), _FACTOR)
    left_over = total.evaluate(values, factors, row, columns) / _REST
    # −1: of two products that are added to each other the second one is fused
    known = {0.0: (), 1.0: (0,), -1.0: (1,)}
    if not set(left_over.tolist()) <= set(known):
        return None
    return frozenset(pair[which] for pair, over in zip(pairs, left_over.tolist(), strict=True) for which in known[over])


def _pair(tree: Tree, node: tuple[int, ...], plain: frozenset[int]) -> tuple[int, int] | None:
    """A product that a node adds, and some term of its other side; None if it adds none, or more than two things."""
    products = [child for child in node if child < tree.leaves and child not in plain]
    if len(node) != 2 or not products:
        return None
    (other,) = (child for child in node if child != products[0])
    return products[0], other if other < tree.leaves else tree.leaves_of(other)[0]
