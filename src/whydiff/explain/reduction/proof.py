"""Prove that two calls carry out the same sums and differ in nothing but the order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whydiff.capturing.adapters import Executor, RecordedSum, Value, for_framework
from whydiff.explain.reduction.describe import describe
from whydiff.explain.reduction.emulate import Terms
from whydiff.explain.reduction.replay import Order, Replay, replay, same_bits, sample
from whydiff.explain.reduction.trial import recorded_terms
from whydiff.records import Call, Evidence

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Proof:
    """What revealing and replaying both sides showed.

    Attributes:
        proved: the terms are the same, every replayed output of both sides is reproduced bit for bit by its
            own order (on the *other* side's terms too), and wrong trees fail.
        reason: why not; empty if proved.
        orders: one line per side.
        matched: (reference, candidate) outputs reproduced bit for bit.
        replayed: outputs replayed on each side, of ``total`` that correspond.
        differing: replayed outputs in which the two sides differ (one zero whatever its sign).
        shuffled: the larger share of trials that a tree with shuffled leaves matches.
        evidence: the same in words.
        revealed: whether a tree was found for both sides.
        reproduced: whether each side's orders give the bits of all its replayed outputs and trials.
    """

    proved: bool
    reason: str
    orders: tuple[str, str]
    matched: tuple[int, int]
    replayed: int
    total: int
    differing: int
    shuffled: float
    evidence: tuple[Evidence, ...]
    revealed: bool
    reproduced: bool


def prove(
    executor_r: Executor,
    call_r: Call,
    reads_r: Sequence[Value],
    executor_c: Executor,
    call_c: Call,
    reads_c: Sequence[Value],
) -> Proof | None:
    """Reveal, replay and cross-replay the order of two recorded calls.

    Args:
        executor_r: replays the reference's trace (flags, threads).
        call_r: the reference's call.
        reads_r: what it reads, as recorded.
        executor_c: likewise for the candidate.
        call_c: likewise.
        reads_c: likewise.

    Returns:
        None if one of them is no sum or product that its adapter can evaluate, or if they do not sum the same
        number of terms; else what was found, proved or not.
    """
    ours, theirs = (
        for_framework(executor.framework).recorded_sum(executor, call, reads)
        for executor, call, reads in ((executor_r, call_r, reads_r), (executor_c, call_c, reads_c))
    )
    if ours is None or theirs is None or ours.kind != theirs.kind:
        return None
    places = _counterparts(ours, theirs)
    if places is None:
        return None
    out_r, out_c = ours.outputs().reshape(-1), theirs.outputs().reshape(-1)
    differs = ~same_bits(out_r[places[0]], out_c[places[1]])
    chosen = sample(len(differs), ours.leaves, differs)
    where_r, where_c = places[0][chosen], places[1][chosen]
    replays = (replay(ours, where_r), replay(theirs, where_c))
    return _judge(ours, theirs, where_r, where_c, replays, differs, int(differs[chosen].sum()))


def _counterparts(ours: RecordedSum, theirs: RecordedSum) -> tuple[Places, Places] | None:
    """Flat positions that correspond: all, or the rows with the same left factors (row 0 of 32)."""
    columns = ours.columns
    if (ours.rows, columns) == (theirs.rows, theirs.columns):
        every = np.arange(ours.rows * columns, dtype=np.int64)
        return every, every
    if columns != theirs.columns or not ours.products:
        return None
    found: dict[bytes, int] = {}
    for row, key in reversed(list(enumerate(_row_keys(theirs)))):
        found[key] = row
    pairs = [(row, found[key]) for row, key in enumerate(_row_keys(ours)) if key in found]
    if not pairs:
        return None
    spread = np.arange(columns, dtype=np.int64)
    rows_r, rows_c = np.array(pairs, np.int64).T
    return (rows_r[:, None] * columns + spread).reshape(-1), (rows_c[:, None] * columns + spread).reshape(-1)


def _row_keys(total: RecordedSum) -> list[bytes]:
    left, _ = total.terms(np.arange(total.rows, dtype=np.int64) * total.columns)
    kept = np.delete(left, sorted(total.plain), axis=0)
    return [np.ascontiguousarray(kept[:, row]).tobytes() for row in range(total.rows)]


def _judge(
    ours: RecordedSum,
    theirs: RecordedSum,
    where_r: Places,
    where_c: Places,
    replays: tuple[Replay, Replay],
    differs: npt.NDArray[np.bool_],
    differing: int,
) -> Proof:
    lines = (_line(replays[0], ours), _line(replays[1], theirs))
    crossed = _crossed(ours, theirs, where_r, where_c, replays)
    reason = _why_not(replays, crossed, differing)
    matched = (replays[0].matched, replays[1].matched)
    shuffled = max(found.shuffled for found in replays)
    data = {
        "reference": lines[0],
        "candidate": lines[1],
        "replayed": len(where_r),
        "matched": list(matched),
        "differing": differing,
        "trials": [found.trials for found in replays],
        "trials_matched": [found.trials_matched for found in replays],
        "shuffled": shuffled,
        "crossed": list(crossed) if crossed else None,
    }
    evidence = [
        Evidence(
            f"the reference sums {lines[0]}; the candidate {lines[1]}", {"reference": lines[0], "candidate": lines[1]}
        )
    ]
    if crossed:
        evidence.append(
            Evidence(
                f"each order, replayed on the other side's inputs, gives its own side's bits in {crossed[0]} "
                f"and {crossed[1]} of {len(where_r)} outputs, {differing} of which differ between the sides",
                data,
            )
        )
        evidence.append(
            Evidence(
                f"on terms that cancel, where every order shows, {replays[0].trials_matched} of "
                f"{replays[0].trials} and {replays[1].trials_matched} of {replays[1].trials} outputs are "
                f"reproduced; trees with shuffled terms reproduce {shuffled:.0%}",
                {"trials": data["trials"], "trials_matched": data["trials_matched"], "shuffled": shuffled},
            )
        )
    return Proof(
        proved=not reason,
        reason=reason,
        orders=lines,
        matched=matched,
        replayed=len(where_r),
        total=len(differs),
        differing=differing,
        shuffled=shuffled,
        evidence=tuple(evidence),
        revealed=all(found.orders for found in replays),
        reproduced=not any(found.doubt for found in replays),
    )


def _why_not(replays: tuple[Replay, Replay], crossed: tuple[int, int] | None, differing: int) -> str:
    for name, found in zip(("reference", "candidate"), replays, strict=True):
        if found.doubt:
            return f"the {name}'s {found.doubt}"
    if crossed is None:
        return "the two sides do not sum the same terms"
    if crossed != (replays[0].sampled, replays[1].sampled):
        return "an order gives other bits on the other side's inputs"
    if not differing:
        return "the replayed outputs do not differ"
    return ""


def _crossed(
    ours: RecordedSum, theirs: RecordedSum, where_r: Places, where_c: Places, replays: tuple[Replay, Replay]
) -> tuple[int, int] | None:
    """Outputs whose bits their own side's order gives on the other side's terms; None if the terms differ."""
    if any(found.why or not found.orders for found in replays):
        return None
    terms = recorded_terms(ours, where_r), recorded_terms(theirs, where_c)
    if not _same_terms(*terms):
        return None
    counts = []
    for total, where, found, other in ((ours, where_r, replays[0], terms[1]), (theirs, where_c, replays[1], terms[0])):
        actual = total.outputs().reshape(-1)[where]
        hits = np.zeros(len(where), bool)
        for index, order in enumerate(found.orders):
            mine = found.by == index
            hits[mine] = same_bits(order.sums(total, other)[mine], actual[mine])
        counts.append(int(hits.sum()))
    return counts[0], counts[1]


def _same_terms(ours: Terms, theirs: Terms) -> bool:
    """The same values, or the same products with their factors exchanged (multiplication commutes)."""
    if ours.right is None or theirs.right is None:
        return np.array_equal(ours.left, theirs.left)
    straight = np.array_equal(ours.left, theirs.left) and np.array_equal(ours.right, theirs.right)
    return straight or (np.array_equal(ours.left, theirs.right) and np.array_equal(ours.right, theirs.left))


def _line(found: Replay, total: RecordedSum) -> str:
    """One line for an op: its main order, and how many outputs are summed in others."""
    if not found.orders:
        return "in an unknown order"
    counts = [found.explained(index) for index in range(len(found.orders))]
    most = int(np.argmax(counts))
    text = _named(found.orders[most], total)
    others = [_named(order, total) for index, order in enumerate(found.orders) if index != most and counts[index]]
    if others:
        text += f" ({counts[most]} outputs; {sum(counts) - counts[most]} others: {' or: '.join(others[:2])})"
    return text


def _named(order: Order, total: RecordedSum) -> str:
    text = describe(order.tree, total.plain)
    return f"{text}, {order.product.value}" if total.products and total.dtype == "float32" else text
