"""What a sum is evaluated on: masks that reveal its tree, and data on which another order shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from whydiff.capturing.adapters import RecordedSum
from whydiff.errors import ReplayError
from whydiff.explain.reduction.emulate import Product, Terms
from whydiff.explain.reduction.reveal import MINUS, PLUS, Probe, reveal
from whydiff.explain.reduction.tree import Tree
from whydiff.numbers.formats import round_to

Array = npt.NDArray[Any]

COUNTABLE = {"float64": 1 << 24, "float32": 1 << 24, "float16": 1 << 11, "bfloat16": 1 << 8}
"""Up to this number every integer is representable (2**p for p significant bits)."""

MOST_TERMS = 32768
"""Longer sums are not tried: K**2 evaluated terms are the least that revealing takes."""

SIGNATURES = 24
"""Masks that tell columns of different orders apart."""

MOST_HELD = 1 << 21
"""Elements of masks spelled out as numbers at a time."""


def supported(total: RecordedSum) -> str:
    """Why the order of a sum cannot be revealed; empty if it can."""
    if total.dtype not in COUNTABLE or total.output_dtype not in COUNTABLE:
        return f"no masks are known for {total.dtype} terms with {total.output_dtype} outputs"
    if total.dtype == "float16" and (total.plain or total.divisor != 1):
        return "float16 holds no mask for a bias or a mean"
    if not 2 <= total.leaves <= MOST_TERMS:
        return f"it has {total.leaves} terms; from 2 to {MOST_TERMS} are revealed"
    return ""


def reveal_at(total: RecordedSum, row: int, columns: npt.NDArray[np.int64]) -> Tree:
    """The tree of the outputs at (row, columns), which are assumed to be summed in one order.

    Masks (M, unit): 2**100, 1 in float32 and bfloat16; 2**200, 1 in float64. float16 holds no number that
    absorbs a unit; the product 2**15 · 2**15 against 2**15 · 2**-24 does (2**39 > 2**24 · K), if the
    accumulator is float32.

    Raises:
        ReplayError: the outputs fit no tree.
    """
    probe = _probe(total, row, columns)
    return reveal(probe, total.leaves, countable=_countable(total))


def columns_like(total: RecordedSum, row: int, column: int) -> npt.NDArray[np.int64]:
    """The columns of a row that lose as many units as a given one under `SIGNATURES` masks.

    Kernels treat the last columns apart; probes must not be spread over columns summed in other orders. Half of the
    masks join random terms; the others join terms a power of two apart, which the lanes of a kernel keep together.
    """
    columns = np.arange(total.columns, dtype=np.int64)
    if total.columns == 1:
        return columns
    random = np.random.default_rng(0)
    probe = _probe(total, row, columns)
    same = np.ones(total.columns, bool)
    for index in range(SIGNATURES):
        mask = np.zeros(total.leaves, np.int8)
        mask[random.permutation(total.leaves)[: _countable(total)]] = 1
        first, second = random.choice(total.leaves, 2, replace=False)
        if index % 2:
            second = (first + (1 << index // 2 % (total.leaves - 1).bit_length())) % total.leaves
        mask[[first, second]] = PLUS, MINUS
        lost = np.rint(probe(np.repeat(mask[None], total.columns, 0)))
        same &= lost == lost[column]
    return columns[same]


def _countable(total: RecordedSum) -> int:
    countable = COUNTABLE[total.output_dtype]
    # the quotient of a mean is rounded: keep its error below a quarter of a unit
    return countable // 4 if total.divisor & (total.divisor - 1) else countable


def _probe(total: RecordedSum, row: int, columns: npt.NDArray[np.int64]) -> Probe:
    """Masks of `whydiff.explain.reduction.reveal` as values of the op's dtype, outputs as units."""
    large, unit, factor = 2.0**100, 1.0, 1.0
    if total.dtype == "float64":
        large = 2.0**200
    if total.dtype == "float16":
        large, unit, factor = 2.0**15, 2.0**-24, (2.0**15 if total.products and total.takes_factors else 1.0)
    table = np.zeros(5)
    table[[PLUS, MINUS, 1]] = large, -large, unit
    step = len(columns) * max(1, MOST_HELD // (len(columns) * total.leaves))
    factors = np.full(total.leaves - len(total.plain), factor)

    def probe(masks: npt.NDArray[np.int8]) -> npt.NDArray[np.float64]:
        outputs = np.empty(len(masks))
        for start in range(0, len(masks), step):
            part = slice(start, start + step)
            outputs[part] = total.evaluate(table[masks[part]], factors if factor != 1.0 else None, row, columns)
        return outputs * (total.divisor / (unit * factor))

    return probe


def cancelling(total: RecordedSum, count: int, seed: int) -> tuple[Array, Array | None]:
    """Terms whose exact sum is zero, so that an output is nothing but rounding and shows its order.

    A bfloat16 output of ordinary data hides the order: rounding to 8 bits removes what a float32 accumulator
    lost. Here terms come in random pairs t, −t over 24 to 32 binary orders of magnitude. A bias is 0.

    Returns:
        (values (count, leaves), factors (K,) or None), representable in the dtype of the terms.
    """
    random = np.random.default_rng(seed)
    terms = total.leaves - len(total.plain)
    short = total.dtype in ("float16", "bfloat16")
    span = 12 if short and not total.takes_factors else 6 if total.dtype == "float16" else 8
    order = random.permutation(terms)[: terms // 2 * 2].reshape(2, -1)

    def draw(*shape: int) -> Array:
        drawn = np.ldexp(random.standard_normal(shape), random.integers(-span, span + 1, shape))
        return round_to(drawn if total.dtype == "float64" else round_to(drawn, "float32"), total.dtype)

    values = np.zeros((count, total.leaves))
    values[:, order[0]] = draw(count, order.shape[1])
    values[:, order[1]] = -values[:, order[0]]
    if not total.takes_factors:
        return values, None
    factors = draw(terms)
    factors[order[1]] = factors[order[0]]
    return values, factors


def as_terms(total: RecordedSum, values: Array, factors: Array | None) -> Terms:
    """The terms that `RecordedSum.evaluate` sums for these values."""
    wide = np.float64 if total.dtype == "float64" else np.float32
    left = np.ascontiguousarray(values.T, wide)
    if not total.products:
        return Terms(left)
    right = np.ones((total.leaves, 1), wide)
    if factors is not None:
        right[: len(factors), 0] = factors
    return Terms(left, np.broadcast_to(right, left.shape), total.plain, total.dtype in ("bfloat16", "float16"))


def recorded_terms(total: RecordedSum, where: npt.NDArray[np.int64]) -> Terms:
    """Recorded terms of the outputs at flat positions ``where``."""
    left, right = total.terms(where)
    return Terms(left, right, total.plain, total.dtype in ("bfloat16", "float16"))


def finished(total: RecordedSum, sums: Array, *, reciprocal: bool = False) -> Array:
    """What the op makes of its sums: the mean's division, and rounding to the output's dtype, as float64."""
    if total.divisor != 1:
        divisor = sums.dtype.type(total.divisor)
        sums = sums * (sums.dtype.type(1) / divisor) if reciprocal else sums / divisor
    return round_to(sums.astype(np.float64), total.output_dtype)


def products(
    total: RecordedSum, terms: Terms, tree: Tree, row: int, columns: npt.NDArray[np.int64]
) -> list[tuple[Product, frozenset[int]]]:
    """How the products of a tree may enter the sum: what was revealed, or else every uniform way.

    Args:
        total: the sum.
        terms: some of its recorded terms.
        tree: the order in which the outputs at (row, columns) are summed.
        row: where it was revealed.
        columns: likewise.

    Raises:
        ReplayError: the products are float64.
    """
    if total.dtype == "float64" and terms.right is not None:
        raise ReplayError("A fused product is not emulated in float64.", next_step="only its tree is revealed")
    none: frozenset[int] = frozenset()
    if len(terms.products) > 1 and total.takes_factors:
        fused = fused_products(total, tree, row, columns)
        if fused is not None:
            return [_named(tree, fused, total.plain)]
    return [(product, none) for product in terms.products]


def _named(tree: Tree, fused: frozenset[int], plain: frozenset[int]) -> tuple[Product, frozenset[int]]:
    """A set of fused leaves, without the set where it is none or all of them."""
    last = (max((c for c in node if c < tree.leaves and c not in plain), default=-1) for node in tree.nodes)
    every = frozenset(leaf for leaf in last if leaf >= 0)
    if fused in (frozenset(), every):
        return (Product.FUSED if fused else Product.ROUNDED), frozenset()
    return Product.MIXED, fused


def reciprocals(total: RecordedSum) -> tuple[bool, ...]:
    """Whether a mean may multiply by the reciprocal of its divisor: both ways, unless they are the same."""
    return (False, True) if total.divisor & (total.divisor - 1) else (False,)


_FACTOR, _VALUE = 1 + 2.0**-12, 1 + 2.0**-13
_ROUNDED, _REST = 1 + 2.0**-12 + 2.0**-13, 2.0**-25
"""``_FACTOR * _VALUE`` is exactly ``_ROUNDED + _REST``; float32 holds each, and rounds the product to ``_ROUNDED``."""


def fused_products(total: RecordedSum, tree: Tree, row: int, columns: npt.NDArray[np.int64]) -> frozenset[int] | None:
    """The leaves of a tree whose product is fused into the addition above them, with one rounding.

    A kernel mixes both: lanes accumulate by fused multiply-adds, while a remainder that one lane holds alone is a
    rounded product when the lanes are added. The tree does not tell (addition commutes, and masks are exact), but one
    evaluation for every addition of a product does: that product is p = c · v, some term of the other side is −p, and
    all else is zero. A fused product leaves p − round(p); a rounded one leaves nothing.

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
