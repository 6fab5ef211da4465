"""Region origins as the local test sees them: the calls of either side that have no counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from whydiff.explain.case import Case
from whydiff.explain.local_test.replays import Region
from whydiff.pair.lockstep import paired
from whydiff.records import Call, Event, Payload


@dataclass(eq=False)
class Area:
    """A region origin: on each side the calls that have no counterpart, and the look that is judged.

    Attributes:
        origin: position in the localization.
        events: the look, per side.
        calls: per side, in execution order.
        regions, reads: both sides as one operation, and what it read.
        made: what either side's calls gave, before anything is put in its place.
        lost: why something that it read is not there; empty: all is.
    """

    origin: int
    events: tuple[Event, Event]
    calls: tuple[list[Call], list[Call]]
    regions: list[Region] = field(default_factory=list)
    reads: list[list[Payload]] = field(default_factory=lambda: [[], []])
    made: list[Payload | None] = field(default_factory=lambda: [None, None])
    lost: str = ""


def areas(case: Case, numbers: Sequence[int]) -> list[tuple[Area, tuple[int, int]]]:
    """The areas of some origins, and the paired calls at which each is looked at."""
    local, traces = case.localization, case.traces
    at: dict[tuple[int, int], list[int]] = {}
    for number in numbers:
        at.setdefault(local.origins[number].calls, []).append(number)
    partner = case.partners[0]
    unpaired = (set(case.alignment.unpaired_reference), set(case.alignment.unpaired_candidate))
    found: dict[int, tuple[Area, tuple[int, int]]] = {}
    for pair in case.alignment.pairs:
        call_r, call_c = traces[0].calls[pair.reference], traces[1].calls[pair.candidate]
        for er, ec in paired(call_r, call_c, "reads"):
            if partner.get(er.producer) == ec.producer or (er.producer == ec.producer == -1):
                continue
            key = (
                er.producer if er.producer >= 0 else pair.reference,
                ec.producer if ec.producer >= 0 else pair.candidate,
            )
            for number in at.get(key, ()):
                if number not in found:
                    inside = tuple(_upstream(traces[i].calls, unpaired[i], e) for i, e in enumerate((er, ec)))
                    found[number] = Area(number, (er, ec), (inside[0], inside[1])), (pair.reference, pair.candidate)
    return list(found.values())


def _upstream(calls: Sequence[Call], unpaired: set[int], event: Event) -> list[Call]:
    """Unpaired calls between paired values and an event, in execution order."""
    inside: set[int] = set()
    waiting = [event]
    while waiting:
        at = waiting.pop()
        if at.producer in unpaired and at.producer not in inside:
            inside.add(at.producer)
            waiting.extend(e for e in calls[at.producer].reads if not e.overwritten)
    return [calls[i] for i in sorted(inside)]


__all__ = ["Area", "areas"]
