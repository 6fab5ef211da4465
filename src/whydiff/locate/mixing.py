"""Values that depend on rows which the other run does not have: they have no counterpart, and are not compared.

Two runs of different batches (or lengths) correspond row by row. What is summed, counted, sorted or divided by a
count over *all* rows does not: a batch total is no counterpart of a part's total. Such a value is told from a defect
by what it was computed from:

- the op reads tensors that have rows more on one side and writes one of the same shape on both: a *total*;
- other values in those rows (an experiment: the op alone, with the rows of the larger side exchanged) change the
  counterpart of an integer result: an order or a place among all rows (a floating result that changes so is an
  origin: rows influence each other);
- its arguments are sizes that grow in step with the runs': a *count*;
- it reads such a value.

They are neither origins nor put into the candidate (its own rows need its own totals). Where what follows comes close
to the other run again, at rounding level, it corresponds again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Value
from whydiff.errors import WhydiffError
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.slices import SliceMap, same_but_for_sizes
from whydiff.records import Call, Count

_FAILURES = (WhydiffError, RuntimeError, TypeError, ValueError, LookupError, IndexError)


@dataclass(frozen=True, slots=True)
class Root:
    """Where values without a counterpart begin.

    Attributes:
        calls: of the reference, of the candidate.
        look: its written value.
        why: as a sentence.
    """

    calls: tuple[Call, Call]
    look: Look
    why: str


class Mixing:
    """What of one walk has no counterpart.

    Args:
        step: the walk; without axes nothing is ever found.
    """

    def __init__(self, step: Lockstep) -> None:
        self.step = step
        self.roots: list[Root] = []
        self._marked: dict[tuple[int, int, int, int], tuple[int, ...]] = {}
        self._sides: tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, ...]]] = ({}, {})
        self._followed = 0

    def roots_of(self, look: Look) -> tuple[int, ...]:
        """Positions in ``roots`` of what made a pair of values, if they have no counterpart."""
        return self._marked.get(_key(look), ())

    def beyond(self, reference: set[int], candidate: set[int]) -> tuple[int, ...]:
        """The same for a region that reads from these calls."""
        found = [n for call in sorted(reference) for n in self._sides[0].get(call, ())]
        found += [n for call in sorted(candidate) for n in self._sides[1].get(call, ())]
        return tuple(dict.fromkeys(found))

    def mark(self, look: Look, roots: Sequence[int]) -> None:
        """Remember that a pair of values has no counterpart."""
        self._marked[_key(look)] = tuple(roots)
        for side, event in zip(self._sides, (look.reference, look.candidate), strict=True):
            side[event.producer] = tuple(roots)
        self._followed += 1

    def begins(self, call_r: Call, call_c: Call, look: Look) -> bool:
        """Whether a call's differing value is the first without a counterpart; it is marked then."""
        why = self._why(call_r, call_c, look)
        if why:
            self.roots.append(Root((call_r, call_c), look, why))
            self.mark(look, (len(self.roots) - 1,))
        return bool(why)

    def close(self, look: Look) -> bool:
        """Whether both values lie so near each other that they correspond again: half of the digits agree."""
        if look.reference_value is None or look.candidate_value is None:
            return False
        dtype = look.reference.spec.dtype
        try:
            payloads = (
                self.step.reference.payload(look.reference_value),
                self.step.candidate.payload(look.candidate_value),
            )
        except WhydiffError:
            return False
        apart = compare_payloads(*payloads).value("rel_l2") if dtype in UNIT_ROUNDOFF else None
        return apart is not None and apart <= UNIT_ROUNDOFF[dtype] ** CANCELLED_SHARE

    def counts(self) -> tuple[Count, ...]:
        """What was not compared, for the report."""
        if not self.roots:
            return ()
        sizes = ", ".join(f"{axis.reference} → {axis.candidate}" for axis in self.step.axes)
        return (
            Count(
                what="values without a counterpart",
                reason=f"they depend on rows that the other run does not have (sizes {sizes}): {self.roots[0].why}",
                count=self._followed,
                examples=tuple(f"{r.look.reference.site}" for r in self.roots[:3]),
                code="no counterpart",
            ),
        )

    # ------------------------------------------------------------------ what kind of op it is

    def _why(self, call_r: Call, call_c: Call, look: Look) -> str:
        axes = self.step.axes
        if not axes:
            return ""
        grown = [er for er, ec in zip(call_r.reads, call_c.reads, strict=False) if er.spec.shape != ec.spec.shape]
        if grown and look.map is None and look.reference.spec.shape == look.candidate.spec.shape:
            return f"{call_r.site.op} makes a total over all of them"
        sized = call_r.arguments != call_c.arguments and call_r.reads
        if sized and same_but_for_sizes(call_r.arguments, call_c.arguments, axes):
            return f"{call_r.site.op} is given a count of them"
        if (
            look.map is not None
            and is_integer(look.reference.spec.dtype)
            and self._mixes(call_r, call_c, look, look.map)
        ):
            return f"{call_r.site.op} orders all of them"
        return ""

    def _mixes(self, call_r: Call, call_c: Call, look: Look, found: SliceMap) -> bool:
        """Whether the counterpart changes when the further rows of the larger side hold other values."""
        larger = found.whole == "candidate"
        executor: Executor = self.step.candidate if larger else self.step.reference
        call, event = (call_c, look.candidate) if larger else (call_r, look.reference)
        if call.mutates or call.rng:
            return False
        try:
            slot = next(i for i, written in enumerate(call.writes) if written is event)
            now = found.part(executor.read(event))
            for change in _CHANGES:
                reads, exchanged = [], False
                for er, ec in zip(call_r.reads, call_c.reads, strict=True):
                    value = executor.read(ec if larger else er)
                    if er.spec.shape != ec.spec.shape:
                        one = self.step.look(er, ec)
                        if one.map is not None and one.map.whole == found.whole and one.agrees:
                            value, exchanged = one.map.put(change(value), one.map.part(value), executor.put), True
                    reads.append(value)
                if exchanged and not executor.same(now, found.part(list(executor.apply(call, reads))[slot])):
                    return True
            return False
        except _FAILURES:
            return False  # it cannot be told: the value is compared


def _key(look: Look) -> tuple[int, int, int, int]:
    ours, theirs = look.reference, look.candidate
    return ours.storage, ours.producer, theirs.storage, theirs.producer


def _turned(value: Value) -> Any:
    """The same elements in reversed order: other values in every row, all of them valid ones."""
    flat = value.reshape(-1)
    return flat[np.arange(flat.shape[0])[::-1].copy()].reshape(value.shape)


_CHANGES: tuple[Callable[[Value], Any], ...] = (
    _turned,
    lambda value: value * 0 + value.max(),
    lambda value: value * 0 + value.min(),
)
"""Other valid values for rows: an order shows in the extremes if not in the reversal."""
