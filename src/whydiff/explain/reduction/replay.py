"""Reveal the orders in which one recorded op sums, and replay them on its real data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from whydiff.capturing.adapters import RecordedSum
from whydiff.errors import ReplayError, WhydiffError
from whydiff.explain.reduction.emulate import Product, Terms, emulate
from whydiff.explain.reduction.tree import Tree
from whydiff.explain.reduction.trial import (
    as_terms,
    cancelling,
    columns_like,
    finished,
    products,
    reciprocals,
    recorded_terms,
    reveal_at,
    supported,
)
from whydiff.numbers.tolerance import SHUFFLED_MATCHES

SAMPLE = 4096
"""Outputs replayed of any larger tensor."""
MOST_VALUES = 1 << 24
"""Terms held at a time: fewer outputs are sampled of a longer sum."""
TRIALS = 256
"""Outputs on cancelling data that confirm every revealed order."""
MOST_ORDERS = 6
"""Different orders looked for within one op (main part, row and column tails)."""


@dataclass(frozen=True)
class Order:
    """One way in which some outputs of an op are summed.

    Attributes:
        tree: the revealed tree.
        product: how products enter.
        fused: the leaves whose product is fused, where only some are.
        reciprocal: a mean multiplies by the reciprocal of its divisor instead of dividing.
    """

    tree: Tree
    product: Product
    fused: frozenset[int]
    reciprocal: bool

    def sums(self, total: RecordedSum, terms: Terms) -> npt.NDArray[np.float64]:
        """The op's outputs for given terms, if it sums in this order."""
        sums = emulate(self.tree, terms, self.product, self.fused)
        return finished(total, sums, reciprocal=self.reciprocal)

    def shuffled(self, seed: int) -> Order:
        """The same shape over other terms: a wrong order to test with."""
        moved = np.random.default_rng(seed).permutation(self.tree.leaves).tolist()
        fused = frozenset(moved[leaf] for leaf in self.fused)
        return replace(self, tree=self.tree.relabelled(moved), fused=fused)


@dataclass(frozen=True)
class Replay:
    """How much of an op's output its revealed orders reproduce.

    Attributes:
        orders: in the order in which they were found.
        where: flat positions of the sampled outputs.
        by: index into ``orders`` for every sampled output; -1: none gives its bits.
        matched, sampled, total: outputs reproduced bit for bit, replayed, in the tensor.
        trials, trials_matched: the same on cancelling data, where every order shows.
        shuffled: share of the trials that trees with shuffled leaves match (near 0, or they prove nothing).
        why: what failed; empty if nothing did.
    """

    orders: tuple[Order, ...]
    where: npt.NDArray[np.int64]
    by: npt.NDArray[np.int64]
    total: int
    trials: int = 0
    trials_matched: int = 0
    shuffled: float = 1.0
    why: str = ""

    @property
    def sampled(self) -> int:
        """Outputs replayed."""
        return len(self.where)

    @property
    def matched(self) -> int:
        """Outputs reproduced bit for bit."""
        return int((self.by >= 0).sum())

    def explained(self, index: int) -> int:
        """Replayed outputs whose bits an order gives and no earlier one."""
        return int((self.by == index).sum())

    @property
    def exact(self) -> bool:
        """Whether every replayed output and every trial was reproduced, while shuffled trees were not."""
        return (
            not self.why
            and self.matched == self.sampled
            and self.trials_matched == self.trials
            and (self.sampled > 0 and self.shuffled <= SHUFFLED_MATCHES)
        )

    @property
    def doubt(self) -> str:
        """Why the orders are no proof, as the end of a sentence; empty if they are one."""
        if self.why:
            return f"order was not revealed: {self.why}"
        if self.exact:
            return ""
        hits = f"{self.matched}/{self.sampled} outputs and {self.trials_matched}/{self.trials} trials"
        return f"revealed order gives its bits in {hits} (trees with shuffled terms: {self.shuffled:.0%})"


def sample(count: int, leaves: int, wanted: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Which of ``count`` outputs are replayed: all, or an even spread in which wanted ones are about half.

    Args:
        count: how many there are.
        leaves: terms of each.
        wanted: (count,) mask.
    """
    most = max(64, min(SAMPLE, MOST_VALUES // max(leaves, 1)))
    if count <= most:
        return np.arange(count, dtype=np.int64)
    first = np.array([], np.int64) if wanted is None else np.flatnonzero(wanted)
    if len(first) > most // 2:
        first = first[np.linspace(0, len(first) - 1, most // 2).astype(np.int64)]
    spread = np.linspace(0, count - 1, most - len(first)).astype(np.int64)
    return np.unique(np.concatenate([first, spread]))


def replay(total: RecordedSum, where: npt.NDArray[np.int64] | None = None) -> Replay:
    """Reveal and confirm: a tree for the first output, then for any that no tree so far explains.

    Args:
        total: the recorded sum.
        where: flat positions of the outputs to replay; `sample` by default.
    """
    where = sample(total.rows * total.columns, total.leaves) if where is None else where
    by = np.full(len(where), -1, np.int64)
    why = supported(total)
    orders: list[Order] = []
    if not why:
        try:
            by = _explain(total, where, recorded_terms(total, where), total.outputs().reshape(-1)[where], orders)
            done = Replay(tuple(orders), where, by, total.rows * total.columns)
            return _confirmed(total, done) if orders and (by >= 0).any() else done
        except WhydiffError as error:
            why = " ".join(filter(None, (error.what, error.actual)))
    return Replay(tuple(orders), where, by, total.rows * total.columns, why=why)


def _explain(
    total: RecordedSum, where: npt.NDArray[np.int64], terms: Terms, actual: npt.NDArray[np.float64], orders: list[Order]
) -> npt.NDArray[np.int64]:
    """Find which order gives each output, revealing a new one wherever those so far do not.

    Args:
        total: the sum.
        where: (S,) flat positions of outputs.
        terms: (K, S) what was summed there.
        actual: (S,) what came out.
        orders: those known so far; new ones are appended.

    Returns:
        (S,) index into ``orders``, -1: none.
    """
    by = np.full(len(where), -1, np.int64)
    tried = 0
    while True:
        for index in range(tried, len(orders)):
            left = np.flatnonzero(by < 0)
            by[left[same_bits(orders[index].sums(total, terms.at(left)), actual[left])]] = index
        tried, left = len(orders), np.flatnonzero(by < 0)
        if not len(left) or len(orders) == MOST_ORDERS:
            return by
        row, column = (int(part) for part in divmod(where[left[0]], total.columns))
        tree, alike = _revealed(total, row, column)
        part = terms.at(left)
        found = [
            Order(tree=tree, product=product, fused=fused, reciprocal=reciprocal)
            for product, fused in products(total, part, tree, row, alike)
            for reciprocal in reciprocals(total)
        ]
        hits = [int(same_bits(order.sums(total, part), actual[left]).sum()) for order in found]
        best = found[int(np.argmax(hits))]
        if not max(hits) or best in orders:
            return by
        orders.append(best)


def _revealed(total: RecordedSum, row: int, column: int) -> tuple[Tree, npt.NDArray[np.int64]]:
    """The tree of an output, and the columns that share it: it alone if those that look alike fit no one tree."""
    alike = columns_like(total, row, column)
    try:
        return reveal_at(total, row, alike), alike
    except ReplayError:
        alone = np.array([column], np.int64)
        if len(alike) == 1:
            raise
        return reveal_at(total, row, alone), alone


def _confirmed(total: RecordedSum, done: Replay) -> Replay:
    """Add the trials on cancelling data, in the row that each order explains best; any order may match.

    An order that ordinary data did not show, because it happened to round alike, is found here.
    """
    trials = matched = shuffled = 0
    orders = list(done.orders)
    rows = {int(np.bincount(done.where[done.by == i] // total.columns).argmax()) for i in range(len(orders))}
    for row in sorted(rows):
        columns = np.unique(done.where[done.where // total.columns == row] % total.columns)
        values, factors = cancelling(total, min(TRIALS, max(32, len(columns))), seed=row)
        actual = total.evaluate(values, factors, row, columns)
        terms = as_terms(total, values, factors)
        where = row * total.columns + np.resize(columns, len(values))
        matched += int((_explain(total, where, terms, actual, orders) >= 0).sum())
        trials += len(values)
        wrong = np.zeros(len(values), bool)
        for order in orders:
            wrong |= same_bits(order.shuffled(row).sums(total, terms), actual)
        shuffled += int(wrong.sum())
    share = shuffled / trials if trials else 1.0
    return replace(done, orders=tuple(orders), trials=trials, trials_matched=matched, shuffled=share)


def same_bits(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Equal values (one zero whatever its sign), or NaN on both sides."""
    same: npt.NDArray[np.bool_] = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return same
