"""Values that one side writes over before they are read, while the other side reads them as they were made."""

from __future__ import annotations

from dataclasses import dataclass

from whydiff.capturing.adapters import Role, plays
from whydiff.explain.case import Case
from whydiff.explain.causes._flow import reads_of
from whydiff.explain.causes._looks import leaves
from whydiff.records import Call, Event, Trace


@dataclass(frozen=True, slots=True)
class Overwritten:
    """What one side wrote over.

    Attributes:
        side: 0 for the reference, 1 for the candidate.
        made: the call whose value is meant.
        writer: the call that wrote over it.
        reads: reads that come too late, each with what they should see.
    """

    side: int
    made: Call
    writer: Call
    reads: tuple[tuple[Event, Event], ...]


def overwritten(case: Case, calls: tuple[int, int]) -> Overwritten | None:
    """What is written over before it is read, the candidate asked first; None: nothing is.

    Args:
        case: the pair of runs.
        calls: an origin's: what made the values that the reference and the candidate read.
    """
    return _on(case, calls, 1) or _on(case, calls, 0) if min(calls) >= 0 else None


def _on(case: Case, calls: tuple[int, int], side: int) -> Overwritten | None:
    trace = case.traces[side]
    writer = trace.calls[calls[side]]
    made = _made(case, calls[1 - side], side) if writer.mutates else None
    if made is None or writer.index <= made.index or _loads(trace, writer):
        return None
    reads = (both[side] for both in reads_of(case, calls))
    found = tuple((read, written) for read in reads if (written := _wrote(made, read)) is not None)
    if not found or not any(writer.reads[i].storage == found[0][0].storage for i in writer.mutates):
        return None
    if not _is_of_use(case, writer, [read for read, _ in found], side):
        return None  # nothing else takes up what it writes, and the other side has no such op: a step of one side
    return Overwritten(side, made, writer, found)


def _loads(trace: Trace, writer: Call) -> bool:
    """Whether a checkpoint is loaded: leaves are copied (ST007)."""
    given = [event for i, event in enumerate(writer.reads) if i not in writer.mutates]
    copies = plays(trace.framework, writer.site.op, Role.CAST)
    return copies and bool(given) and all(leaves(trace, event) for event in given)


def _is_of_use(case: Case, writer: Call, found: list[Event], side: int) -> bool:
    """Whether what is written over is meant for others than those that should not read it, or both sides write it."""
    if writer.index in case.partners[side]:
        return True
    mine, memory = {event.site for event in found}, {event.storage for event in found}
    calls = case.traces[side].calls
    later = (event for call in calls[writer.index + 1 :] if call.kind != "view" for event in call.reads)
    return any(e.producer == writer.index and e.storage in memory and e.site not in mine for e in later)


def _made(case: Case, kept: int, side: int) -> Call | None:
    """One side's counterpart of the call that made what the other side reads, before it was copied there."""
    traces = case.traces
    partner = case.partners[1 - side]
    call = traces[1 - side].calls[kept]
    while (
        call.index not in partner
        and len(call.reads) == 1
        and plays(traces[1 - side].framework, call.site.op, Role.CAST)
    ):
        if call.reads[0].producer < 0:
            return None
        call = traces[1 - side].calls[call.reads[0].producer]
    return traces[side].calls[partner[call.index]] if call.index in partner else None


def _wrote(made: Call, read: Event) -> Event | None:
    """What a call wrote in the memory that is read, if that is all of it."""
    return next((e for e in made.writes if e.storage == read.storage and e.spec.shape == read.spec.shape), None)
