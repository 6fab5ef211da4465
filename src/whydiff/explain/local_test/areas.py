"""Region origins as the local test sees them: the calls of either side that have no counterpart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from whydiff.explain.alike import made_by
from whydiff.explain.case import Case
from whydiff.explain.local_test.replays import Region
from whydiff.locate.upstream import walked_back
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
    for call_r, call_c in case.paired():
        for er, ec in paired(call_r, call_c, "reads"):
            if partner.get(er.producer) == ec.producer or (er.producer == ec.producer == -1):
                continue
            for number in at.get(made_by(call_r, call_c, er, ec), ()):
                if number not in found:
                    before = (walked_back(traces[i].calls, unpaired[i], e)[0] for i, e in enumerate((er, ec)))
                    inside = tuple([t.calls[i] for i in those] for t, those in zip(traces, before, strict=True))
                    found[number] = Area(number, (er, ec), (inside[0], inside[1])), (call_r.index, call_c.index)
    return list(found.values())


__all__ = ["Area", "areas"]
