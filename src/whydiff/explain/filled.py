"""A batch that one run alone fills up with further rows before its ops, and cuts again: whether the filling matters.

Both runs are given and return tensors of the same sizes. Where a paired op reads the one run's rows and the other's
with rows of no information beside them (one number everywhere, or a copy of a row that is there), the larger program is
carried out again in float64 with copies of the common rows in the filling's place. A program whose rows do not look at
each other gives what it gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, executor_of, for_framework
from whydiff.explain.case import Case
from whydiff.explain.sides import Side
from whydiff.numbers.metrics import as_reals, values
from whydiff.pair.lockstep import Lockstep
from whydiff.pair.replay import Outputs, replay
from whydiff.pair.sizes import entering_reads
from whydiff.records import Call, Event, Lift, Payload, Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Filled:
    """Rows that one run alone puts beside its own.

    Attributes:
        side: that has them.
        event: what its ops made: its rows with others beside them.
        start: where the rows that both runs have begin.
        count: how many those are.
    """

    side: Side
    event: Event
    start: int
    count: int

    @property
    def total(self) -> int:
        """Rows with the filling."""
        return int(self.event.spec.shape[0])

    def rows(self) -> slice:
        """Those that both runs have."""
        return slice(self.start, self.start + self.count)


def filled(case: Case) -> Filled | None:
    """Where one run fills its rows up; None if neither does.

    Raises:
        whydiff.errors.WhydiffError: a value on the way was not kept.
    """
    wanted = {
        calls: (event, other)
        for calls, event, other in entering_reads(case.reference, case.candidate, case.alignment)
        if _grown(event, other) or _grown(other, event)
    }
    if not wanted:
        return None
    ours, theirs = (executor_of(trace) for trace in case.traces)
    for reference, candidate in Lockstep(ours, theirs, case.alignment).walk():
        pair = wanted.get((reference.index, candidate.index))
        if pair is not None:
            return _held(pair, (ours.payload(ours.read(pair[0])), theirs.payload(theirs.read(pair[1]))))
    return None


def _grown(small: Event, large: Event) -> bool:
    """Whether one value is another's with further rows, by its sizes, and a run's own op made it."""
    one, other = small.spec.shape, large.spec.shape
    more = len(one) == len(other) > 0 and one[1:] == other[1:] and 0 < one[0] < other[0]
    return more and large.producer >= 0 and small.spec.dtype == large.spec.dtype


def _held(pair: tuple[Event, Event], held: tuple[Payload, Payload]) -> Filled | None:
    """Where the larger value holds the smaller one bit for bit, if what is beside it tells nothing."""
    large = int(pair[1].spec.shape[0] > pair[0].spec.shape[0])
    mine, other = held[1 - large].bits, held[large].bits
    for start in range(len(other) - len(mine) + 1):
        beside = np.concatenate([other[:start], other[start + len(mine) :]])
        if np.array_equal(_bytes(other[start : start + len(mine)]), _bytes(mine)) and _tells_nothing(beside, mine):
            return Filled("candidate" if large else "reference", pair[large], start, len(mine))
    return None


def _tells_nothing(beside: Array, rows: Array) -> bool:
    """Whether rows are one number everywhere, or copies of rows that are there."""
    raw = _bytes(beside)
    if np.array_equal(raw, np.broadcast_to(_bytes(beside.reshape(-1)[:1]), raw.shape)):
        return True
    known = {row.tobytes() for row in rows}
    return all(row.tobytes() in known for row in beside)


def _bytes(bits: Array) -> Array:
    """Elements as the bytes they consist of, along a last axis."""
    return np.ascontiguousarray(bits).reshape(*bits.shape, 1).view(np.uint8)


@dataclass(frozen=True, slots=True)
class Told:
    """What copies in the filling's place change, in float64.

    Attributes:
        moved: the first op whose rows change.
        apart: how far the outputs move, over their size.
    """

    moved: Call
    apart: float


def told(case: Case, found: Filled, level: float) -> Told | None:
    """Whether the filling changes what the rows give, in float64; None if it does not.

    Args:
        case: the pair of runs.
        found: where.
        level: what is rounding, over the size of the values.

    Raises:
        whydiff.errors.WhydiffError: the program cannot be carried out in float64.
    """
    trace: Trace = case.trace(found.side)
    kept: dict[int, list[Array]] = {}
    moved: list[Call] = []

    def plainly(executor: Executor, call: Call) -> None:
        if call.index > found.event.producer:
            kept[call.index] = _common(executor, call, found)

    def copied(executor: Executor, call: Call) -> None:
        if call.index == found.event.producer:
            executor.overwrite(found.event, _copies(executor, found))
        elif not moved and call.index in kept:
            pairs = zip(kept[call.index], _common(executor, call, found), strict=True)
            moved.extend([call] if any(_apart(one, other) > level for one, other in pairs) else [])

    adapter, wide = for_framework(trace.framework), Lift("float64")
    plain = replay(adapter.executor(trace, lift=wide), watch=plainly)
    other = replay(adapter.executor(trace, lift=wide), watch=copied)
    if plain.failed or other.failed or not moved:
        return None
    apart = _of_outputs(plain.outputs, other.outputs)
    return Told(moved[0], apart) if apart > level else None


def _common(executor: Executor, call: Call, found: Filled) -> list[Array]:
    """The common rows of what a call wrote."""
    kept = []
    for event in call.writes if call.kind == "compute" else ():
        if event.spec.shape[:1] == (found.total,) and event.storage >= 0:
            bits = executor.payload(executor.read(event)).bits[found.rows()]
            kept += [bits.copy()] if bits.dtype.kind == "f" else []
    return kept


def _copies(executor: Executor, found: Filled) -> Any:
    """The value with other copies of the common rows in the filling's place than are there."""
    payload = executor.payload(executor.read(found.event))
    at = np.arange(found.total)
    cyclic = found.start + (at - found.start) % found.count
    beside = (at < found.start) | (at >= found.start + found.count)
    for rows in (cyclic, np.where(beside, found.start + found.count - 1, at)):
        bits = np.ascontiguousarray(payload.bits[rows])
        if not np.array_equal(_bytes(bits), _bytes(payload.bits)):
            break
    return executor.adopt_foreign(Payload(bits, payload.dtype))


def _apart(one: Array, other: Array) -> float:
    size = float(np.abs(one).max(initial=0.0))
    return float(np.abs(one - other).max(initial=0.0)) / size if size else 0.0


def _of_outputs(ours: Outputs, theirs: Outputs) -> float:
    pairs = [(as_reals(ours[slot]), as_reals(theirs[slot])) for slot in ours if slot in theirs]
    return max((_apart(*(values(p.bits, p.dtype).astype(np.float64) for p in pair)) for pair in pairs), default=0.0)
