"""Which products are fused, revealed from sums whose every rounding is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from simulate import chain, trees

from whydiff.explain.reduction import Product, Terms, Tree, emulate, replay
from whydiff.explain.reduction.replay import sample
from whydiff.explain.reduction.trial import as_terms, fused_products

FIRST = np.arange(4)


class Simulated:
    """A float32 product of a row and some columns, summed along a tree with some products fused."""

    plain: frozenset[int] = frozenset()
    products, takes_factors = True, True
    dtype = output_dtype = "float32"
    divisor = 1

    def __init__(self, tree: Tree, fused: frozenset[int], *, columns: int = 32, plain: frozenset[int] = frozenset()):
        self.tree, self.fused, self.plain = tree, fused, plain
        self.rows, self.columns, self.leaves = 1, columns, tree.leaves
        random = np.random.default_rng(0)
        self.left = random.standard_normal((self.leaves, 1)).astype(np.float32)
        self.right = random.standard_normal((self.leaves, columns)).astype(np.float32)
        self.right[sorted(plain)] = 1

    def outputs(self) -> Any:
        terms = Terms(*self.terms(np.arange(self.columns)), self.plain)
        return self._sums(terms)[None]

    def terms(self, where: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        return np.broadcast_to(self.left, self.right.shape)[:, where], self.right[:, where]

    def evaluate(self, values: Any, factors: Any, row: int, columns: Any) -> Any:
        return self._sums(as_terms(self, values, factors))  # type: ignore[arg-type]

    def _sums(self, terms: Terms) -> npt.NDArray[np.float64]:
        return emulate(self.tree, terms, Product.MIXED, self.fused).astype(np.float64)


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Tree, frozenset[int]]:
    """A binary tree and some of its leaves, at most one of two that are added to each other."""
    tree = draw(trees(most=24, wide=False))
    chosen = set()
    for node in tree.nodes:
        leaves = [child for child in node if child < tree.leaves]
        chosen |= draw(st.sampled_from([set(), *({leaf} for leaf in leaves)]))
    return tree, frozenset(chosen)


@given(mixtures())
def test_any_mixture_of_fused_and_rounded_products_is_revealed(mixture: tuple[Tree, frozenset[int]]) -> None:
    tree, fused = mixture
    assert fused_products(Simulated(tree, fused), tree, 0, FIRST) == fused  # type: ignore[arg-type]


@given(mixtures())
def test_a_mixed_sum_is_replayed_bit_for_bit(mixture: tuple[Tree, frozenset[int]]) -> None:
    total = Simulated(*mixture)
    found = replay(total, sample(total.columns, total.leaves))  # type: ignore[arg-type]
    assert (found.matched, found.trials_matched) == (found.sampled, found.trials), found.doubt


def test_lanes_with_a_remainder_are_called_mixed() -> None:
    """The first product of a lane is rounded anyway; a lane of one product is added, not fused."""
    tree = Tree.of(5, [[0, 2], [5, 4], [1, 3], [6, 7]])
    mixed = replay(Simulated(tree, frozenset({2, 3})))  # type: ignore[arg-type]
    assert [(order.product, order.fused) for order in mixed.orders] == [(Product.MIXED, frozenset({2, 3}))]
    every = replay(Simulated(tree, frozenset({2, 3, 4})))  # type: ignore[arg-type]
    assert [(order.product, order.fused) for order in every.orders] == [(Product.FUSED, frozenset())]
    none = replay(Simulated(tree, frozenset()))  # type: ignore[arg-type]
    assert [(order.product, order.fused) for order in none.orders] == [(Product.ROUNDED, frozenset())]


def test_the_second_of_two_products_may_come_first() -> None:
    tree = chain([0, 1, 2])
    assert fused_products(Simulated(tree, frozenset({0, 2})), tree, 0, FIRST) == {0, 2}  # type: ignore[arg-type]


def test_a_bias_is_no_product_and_what_is_added_to_it_is_revealed() -> None:
    tree = chain([2, 0, 1])
    for fused in (frozenset({0, 1}), frozenset({1}), frozenset()):
        total = Simulated(tree, fused, plain=frozenset({2}))
        assert fused_products(total, tree, 0, FIRST) == fused  # type: ignore[arg-type]


def test_another_arithmetic_is_neither_fused_nor_rounded() -> None:
    class Coarse(Simulated):
        def evaluate(self, values: Any, factors: Any, row: int, columns: Any) -> Any:
            return super().evaluate(values, factors, row, columns) + 2.0**-20

    tree = chain(range(5))
    assert fused_products(Coarse(tree, frozenset({2})), tree, 0, FIRST) is None  # type: ignore[arg-type]
