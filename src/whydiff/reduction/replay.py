"""Reveal the orders in which one recorded op sums, and replay them on its real data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whydiff.adapters import RecordedSum
from whydiff.errors import WhydiffError
from whydiff.reduction.emulate import Product, Terms, emulate
from whydiff.reduction.tree import Tree
from whydiff.reduction.trial import as_terms, cancelling, finished, recorded_terms, reveal_at, supported, ways

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
        reciprocal: a mean multiplies by the reciprocal of its divisor instead of dividing.
        explained: sampled outputs whose bits it gives.
    """

    tree: Tree
    product: Product
    reciprocal: bool
    explained: int

    def sums(self, total: RecordedSum, terms: Terms) -> npt.NDArray[np.float64]:
        """The op's outputs for given terms, if it sums in this order."""
        sums = emulate(self.tree, terms, self.product)
        return finished(total, sums, reciprocal=self.reciprocal)


@dataclass(frozen=True)
class Replay:
    """How much of an op's output its revealed orders reproduce.

    Attributes:
        orders: by number of outputs that they explain, most first.
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

    @property
    def exact(self) -> bool:
        """Whether every replayed output and every trial was reproduced, while shuffled trees were not."""
        return (
            not self.why
            and self.matched == self.sampled
            and self.trials_matched == self.trials
            and (self.sampled > 0 and self.shuffled <= 0.5)
        )


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
            actual = total.outputs().reshape(-1)[where]
            terms = recorded_terms(total, where)
            _explain(total, where, terms, actual, by, orders)
        except WhydiffError as error:
            why = " ".join(filter(None, (error.what, error.actual)))
    done = Replay(tuple(orders), where, by, total.rows * total.columns, why=why)
    return done if why or not orders else _confirmed(total, done)


def _explain(
    total: RecordedSum, where: npt.NDArray[np.int64], terms: Terms, actual: npt.NDArray[np.float64],
    by: npt.NDArray[np.int64], orders: list[Order],
) -> None:  # fmt: skip
    """Fill ``by`` and ``orders``."""
    for _ in range(MOST_ORDERS):
        left = np.flatnonzero(by < 0)
        if not len(left):
            return
        row = int(where[left[0]] // total.columns)
        columns = np.arange(total.columns) if not orders else np.unique(
            where[left][where[left] // total.columns == row] % total.columns
        )  # fmt: skip
        tree = reveal_at(total, row, columns)
        if any(order.tree == tree for order in orders):
            return
        part = Terms(
            terms.left[:, left],
            None if terms.right is None else terms.right[:, left],
            terms.plain,
            terms.exact,
        )
        best: tuple[int, Order, npt.NDArray[np.bool_]] | None = None
        for product, reciprocal in ways(total, part):
            order = Order(tree, product, reciprocal, 0)
            equal = same_bits(order.sums(total, part), actual[left])
            if best is None or equal.sum() > best[0]:
                best = (int(equal.sum()), order, equal)
        assert best is not None
        by[left[best[2]]] = len(orders)
        orders.append(Order(tree, best[1].product, best[1].reciprocal, best[0]))
        if not best[0]:
            return


def _confirmed(total: RecordedSum, done: Replay) -> Replay:
    """Add the trials on cancelling data, for every order at outputs that it explains."""
    trials = matched = 0
    shuffled = 0.0
    for index, order in enumerate(done.orders):
        mine = done.where[done.by == index]
        if not len(mine):
            continue
        row = int(mine[0] // total.columns)
        columns = np.unique(mine[mine // total.columns == row] % total.columns)
        values, factors = cancelling(total, min(TRIALS, max(32, len(columns))), seed=index)
        actual = total.evaluate(values, factors, row, columns)
        terms = as_terms(total, values, factors)
        trials += len(values)
        matched += int(same_bits(order.sums(total, terms), actual).sum())
        wrong = order.tree.relabelled(np.random.default_rng(index).permutation(order.tree.leaves).tolist())
        other = Order(wrong, order.product, order.reciprocal, 0).sums(total, terms)
        shuffled += float(same_bits(other, actual).sum())
    return Replay(done.orders, done.where, done.by, done.total, trials, matched,
                  shuffled / trials if trials else 1.0, done.why)  # fmt: skip


def same_bits(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Equal values (one zero whatever its sign), or NaN on both sides."""
    same: npt.NDArray[np.bool_] = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return same
