"""Memory that one side fills from another value than the one it has come to, where the other side goes on with that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whydiff.capturing.adapters import Role, plays
from whydiff.explain.case import Case
from whydiff.explain.keys import draws
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Event, Intervention, Origin, Trace


@dataclass(frozen=True, slots=True)
class Copied:
    """A copy that only the candidate makes, of another value than its own counterpart of what the reference goes on with.

    Attributes:
        copy: it fills the memory that is read on.
        own: what the candidate had come to: the counterpart of what the reference goes on with.
        made_of: what is copied is made of these values, of which the own one was made (or is).
        given: the copy takes the candidate's own value.
    """

    copy: Call
    own: Call
    made_of: tuple[Call, ...]
    given: tuple[Intervention, ...]


def copied_over(case: Case, origin: Origin) -> Copied | None:
    """What the candidate fills memory with at an origin, if it is none of its own value's; None: it does not.

    What is copied is made of earlier values on the way to the own one: what is made of the own value alone is a step on it
    (a cast, a factor), and what is drawn is another cause's.
    """
    if origin.kind != "region" or min(origin.calls) < 0:
        return None
    trace = case.candidate
    kept, copy = case.reference.calls[origin.calls[0]], trace.calls[origin.calls[1]]
    if not _fills(trace, copy):
        return None
    partner = case.partners[0]
    if kept.index not in partner or copy.index in partner.values():
        return None
    own, source = trace.calls[partner[kept.index]], _source(trace, copy)
    written = _counterpart(case, kept, copy, own)
    if own.index > copy.index or source.producer in (-1, own.index) or written is None:
        return None
    if any(call.index < copy.index for call in _overwriting(trace, own, written)):
        return None
    behind = _behind(trace, source.producer, own.index)
    if behind is None or not any(call.index != own.index for call in behind):
        return None
    (read,) = _given(copy)
    return Copied(copy, own, tuple(behind), (Intervention("read-from", str(read.site), str(written.site)),))


def _counterpart(case: Case, kept: Call, copy: Call, own: Call) -> Event | None:
    """What the own call wrote in the place of what the reference reads on, where the candidate reads the copy."""
    for pair in case.alignment.pairs:
        for er, ec in matched(case.reference.calls[pair.reference], case.candidate.calls[pair.candidate], "reads"):
            if er.producer == kept.index and ec.producer == copy.index and len(kept.writes) == len(own.writes):
                return next((w for k, w in zip(kept.writes, own.writes, strict=True) if k.storage == er.storage), None)
    return None


def _fills(trace: Trace, call: Call) -> bool:
    """Whether a call does nothing but write one value over memory that was there."""
    return plays(trace.framework, call.site.op, Role.CAST) and len(call.mutates) == 1 and len(_given(call)) == 1


def _given(call: Call) -> list[Event]:
    return [event for position, event in enumerate(call.reads) if position not in call.mutates]


def _source(trace: Trace, copy: Call) -> Event:
    """What a copy copies, copies of copies left out."""
    (event,) = _given(copy)
    while event.producer >= 0:
        call = trace.calls[event.producer]
        if not plays(trace.framework, call.site.op, Role.CAST) or len(_given(call)) != 1:
            break
        (event,) = _given(call)
    return event


def _overwriting(trace: Trace, own: Call, written: Event) -> Iterator[Call]:
    """Later calls that write into the memory of a value."""
    for call in trace.calls[own.index + 1 :]:
        if any(call.reads[position].storage == written.storage for position in call.mutates):
            yield call


def _behind(trace: Trace, made: int, own: int) -> list[Call] | None:
    """Of which values, that the own one was made of too (or is), other ops make a value; None: they draw something."""
    upstream = _upstream(trace, own)
    ends: list[Call] = []
    waiting, seen = [made], set[int]()
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        call = trace.calls[index]
        if index in upstream:
            ends.append(call)
        elif draws(trace, call):
            return None
        else:
            waiting += [event.producer for event in call.reads if event.producer >= 0]
    return sorted(ends, key=lambda call: call.index)


def _upstream(trace: Trace, index: int) -> set[int]:
    found, waiting = set[int](), [index]
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting += [event.producer for event in trace.calls[index].reads if event.producer >= 0]
    return found
