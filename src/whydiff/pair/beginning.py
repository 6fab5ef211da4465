"""What two recorded programs begin with alike: the same calls on the same values, carried out once for all replays.

Two runs of a hundred steps that part at the thirty-seventh were one run until then. A replay of either side that is
changed only later begins where one replay of the common beginning stands (one for every manner: as recorded, lifted). What it
gives is what it gave from the first call on: these calls, their arguments and what they read are the same records, and
every value that they wrote has the same fingerprint.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from whydiff.capturing.adapters import Executor, Manner, executor_of
from whydiff.errors import WhydiffError
from whydiff.pair.replay import Outputs, replay
from whydiff.records import Alignment, Call, Lift, Trace

_LEAST = 256
"""Calls below which a beginning is not worth its copies."""
_MOST = 1 << 26
"""Bytes that one manner may keep of where the beginning ends: with more, time goes into the ops themselves."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Where replays begin: how many calls they need not carry out, and what these returned."""

    calls: int = 0
    outputs: Outputs = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _End:
    standing: Any
    outputs: Outputs


class CommonBeginning:
    """The common beginning of two traces on disk.

    Args:
        reference, candidate: both can be replayed.
        alignment: which calls correspond.
        upto: no call behind this one, of either: where the first difference was seen to start. Recorded fingerprints
            are what a trace says of its values; that walk looked at them.
    """

    def __init__(self, reference: Trace, candidate: Trace, alignment: Alignment, *, upto: int) -> None:
        self._traces, self._alignment, self._upto = (reference, candidate), alignment, upto
        self._ends: dict[Manner, _End | None] = {}

    @functools.cached_property
    def calls(self) -> int:
        """How many calls both have in common; 0: too few to be worth it."""
        reference, candidate = self._traces
        if reference.framework != candidate.framework or reference.handles or candidate.handles:
            return 0
        if list(reference.contexts) != list(candidate.contexts):
            return 0
        count = _alike(reference, candidate)
        for pair in self._alignment.pairs:
            if min(pair.reference, pair.candidate) < count and pair.reference != pair.candidate:
                count = min(pair.reference, pair.candidate)
        denied = [index for trace in self._traces if trace.bounds is not None for index in trace.bounds.denied]
        count = min((count, self._upto, *denied))
        return count if count >= _LEAST else 0

    def enter(self, executors: Sequence[Executor]) -> Entered:
        """Bring replays that have not begun to the end of the beginning, all of them or none."""
        count = self.calls
        manners = [executor.manner_until(count) for executor in executors] if count else [None]
        known = [manner for manner in manners if manner is not None]
        if len(known) < len(manners):
            return Entered()
        both = [(executor, self._end(manner)) for executor, manner in zip(executors, known, strict=True)]
        if any(end is None or executor.lacks(end.standing, count) for executor, end in both):
            return Entered()
        found: Outputs = {}
        for executor, end in both:
            if end is not None:
                executor.take_up(end.standing)
                found = end.outputs
        return Entered(count, found)

    def _end(self, manner: Manner) -> _End | None:
        if manner not in self._ends:
            self._ends[manner] = self._carried_out(manner.lift)
        return self._ends[manner]

    def _carried_out(self, lift: Lift | None) -> _End | None:
        """One replay of the beginning; None where a call of it fails, or too much is held at its end."""
        first = executor_of(self._traces[0], lift=lift)
        later = (call for trace in self._traces for call in trace.calls[self.calls :])
        first.keep({event.storage for call in later for event in (*call.reads, *call.writes)})
        try:
            found = replay(first, until=self.calls)
            standing = None if found.failed else first.standing(_MOST)
        except WhydiffError:
            return None
        return None if standing is None else _End(standing, found.outputs)


def _alike(reference: Trace, candidate: Trace) -> int:
    """How many calls at the beginning are the same on the same values."""
    leaves = [_by_storage(trace) for trace in (reference, candidate)]
    known: dict[int, bool] = {}

    def one_leaf(storage: int) -> bool:
        if storage not in known:
            ours, theirs = (found.get(storage, []) for found in leaves)
            known[storage] = ours == theirs and all(leaf.fingerprint is not None for leaf in ours)
        return known[storage]

    for index, (ours, theirs) in enumerate(zip(reference.calls, candidate.calls, strict=False)):
        events = (*ours.reads, *ours.writes)
        seen = all(event.fingerprint is not None or not event.payload for event in ours.writes)
        if not seen or not _one_call(ours, theirs) or not all(one_leaf(event.storage) for event in events):
            return index
    return min(len(reference.calls), len(candidate.calls))


def _one_call(ours: Call, theirs: Call) -> bool:
    """Whether two calls are one but for the lines of code that they stand in."""
    return (
        ours.target == theirs.target
        and ours.kind == theirs.kind
        and ours.site == theirs.site
        and ours.arguments == theirs.arguments
        and (ours.mutates, ours.context, ours.rng) == (theirs.mutates, theirs.context, theirs.rng)
        and ours.reads == theirs.reads
        and ours.writes == theirs.writes
    )


def _by_storage(trace: Trace) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for leaf in trace.leaves:
        if leaf.storage >= 0:
            found.setdefault(leaf.storage, []).append(leaf)
    return found
