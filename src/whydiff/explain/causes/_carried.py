"""A value that is carried from round to round, and the round in which one side goes on with another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from whydiff.explain.causes._view import View, consumers
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Event, Trace

_ROUND = 4
"""Over how many ops the value of one round is followed into the next."""


@dataclass(frozen=True, slots=True)
class Seam:
    """Where a carried value is lost.

    Attributes:
        side: that goes on with another value; 0: the reference.
        carried: what made the value that it carried until then, per side.
        taken: what it goes on with: a call made it, or a leaf holds it.
        reads: the first reads after the seam, per side.
        rounds: how many rounds both sides carried it before.
    """

    side: int
    carried: tuple[Call, Call]
    taken: Event
    reads: tuple[tuple[Event, Event], ...]
    rounds: int


def seam(view: View) -> Seam | None:
    """The seam at an origin; None: a value is carried over it, or no value was carried before.

    In the rounds before, the same op makes the value of its own last one on both sides, from the same tensors; after it
    one side reads another value, and its own is read no more. (One that is still read was taken for another one.)
    """
    if view.origin.kind != "region" or view.one_function:
        return None
    return next((found for side in (1, 0) if (found := _seam(view, side)) is not None), None)


def _seam(view: View, side: int) -> Seam | None:
    traces = view.case.traces
    kept, taken = _source(view, 1 - side), _source(view, side)
    if kept.producer < 0 or (view.seen.calls[side] and taken.producer == view.seen.results[side].producer):
        return None  # nothing made it, or what is taken was made at this place
    partner = view.case.partners[1 - side]
    own = partner.get(kept.producer)
    reads = tuple(_reads(view))
    if own is None or own == taken.producer or not reads:
        return None
    begin = min(call.index for call in traces[side].calls if any(both[side] in call.reads for both in reads))
    begin = min([begin, *(call.index for call in view.seen.calls[side])])
    if any(event.producer == own for call in traces[side].calls[begin:] for event in call.reads):
        return None
    made = traces[1 - side].calls[kept.producer]
    further = [later for later in consumers(view.case, 1 - side, made, _ROUND) if _alike(made, later)]
    used = [_used(traces[1 - side], made, later) for later in further[:1]]
    rounds = {
        later.index for one, later in _rounds(view, side, made, partner) if _used(traces[1 - side], one, later) in used
    }
    if not rounds:
        return None
    both = (made, traces[side].calls[own])
    return Seam(side, both if side else (both[1], both[0]), taken, reads, len(rounds))


def _source(view: View, side: int) -> Event:
    """What a side takes up, copies left out."""
    if view.seen.calls[side]:
        exact = view.exact[side]
        for event, held in zip(view.seen.reads[side], view.seen.operations[side].reads, strict=False):
            if event.storage >= 0 and held.shape == exact.shape and np.array_equal(held, exact):
                return event
    return view.seen.results[side]


def _reads(view: View) -> Iterator[tuple[Event, Event]]:
    """Paired reads of what the two sides take up."""
    results, case = view.seen.results, view.case
    for calls in case.paired():
        for both in matched(*calls, "reads"):
            if all(e.producer == r.producer and e.storage == r.storage for e, r in zip(both, results, strict=True)):
                yield both


def _rounds(view: View, side: int, made: Call, partner: Mapping[int, int]) -> Iterator[tuple[Call, Call]]:
    """Earlier values of the same op, each made of the one before, on both sides."""
    traces = view.case.traces
    earlier = [c for c in traces[1 - side].calls[: made.index + 1] if _alike(c, made)]
    for call in earlier:
        for later in consumers(view.case, 1 - side, call, _ROUND):
            if later.index > made.index or later not in earlier or partner.keys().isdisjoint({call.index}):
                continue
            theirs = traces[side].calls[partner[call.index]]
            followed = {one.index for one in consumers(view.case, side, theirs, _ROUND)}
            if partner.get(later.index) in followed:
                yield call, later


def _alike(one: Call, other: Call) -> bool:
    mine, others = ((c.target, c.arguments, c.site.scope, [w.spec for w in c.writes]) for c in (one, other))
    return mine == others


def _used(trace: Trace, one: Call, later: Call) -> set[int]:
    """Storages of the tensors from outside that are used between one value and the next one that is made of it."""
    found, waiting, seen = set[int](), [later.index], set[int]()
    while waiting:
        index = waiting.pop()
        if index <= one.index or index in seen:
            continue
        seen.add(index)
        for event in trace.calls[index].reads:
            if event.producer < 0:
                found.add(event.storage)
            else:
                waiting.append(event.producer)
    return found
