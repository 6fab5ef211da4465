"""Steps that write in place and that both sides carry out, one side before what the other carries out first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.changed import ORDER
from whydiff.records import Call, Intervention, Trace

_FEW = 64
"""Moved calls of which it is asked ahead of what they stand. A size, not a tolerance."""


@dataclass(frozen=True, slots=True)
class Moved:
    """Calls that both sides carry out, at other places.

    Attributes:
        calls: of the reference, of the candidate, each with its counterpart.
        past: calls of both sides that the first ones are carried out behind on one side and ahead of on the other.
    """

    calls: tuple[tuple[Call, Call], ...]
    past: tuple[Call, Call]

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """The candidate carries them out where the reference does."""
        return tuple(Intervention(ORDER, str(theirs.site), str(ours.site)) for ours, theirs in self.calls)


def moved(case: Case) -> Moved | None:
    """All that either side carries out alone, where the other side carries out the same elsewhere; None: it is not that."""
    return case.shared("steps in another order", lambda: _moved(case))


def is_behind_all(case: Case) -> bool:
    """Whether the outputs agree once these are carried out in the reference's order: then no op is another one."""
    found = moved(case)
    return found is not None and case.experiments.equal_if_told(found.interventions)


def _moved(case: Case) -> Moved | None:
    if not case.replayable or case.localization.axes:
        return None
    ours = [case.reference.calls[index] for index in case.alignment.unpaired_reference]
    theirs = [case.candidate.calls[index] for index in case.alignment.unpaired_candidate]
    if (
        not ours
        or len(ours) != len(theirs)
        or [_step(case, call) for call in ours] != [_step(case, call) for call in theirs]
    ):
        return None
    both = list(zip(ours, theirs, strict=True))
    if not all(_in_place(trace, calls) for trace, calls in ((case.reference, ours), (case.candidate, theirs))):
        return None
    past = _past(case, both)
    return Moved(tuple(both), past) if past is not None and _one_memory(both) else None


def _step(case: Case, call: Call) -> tuple[str, str, str, str]:
    """What a call does, whichever memory it does it to."""
    function = for_framework(case.reference.framework).function(call.site.op)
    return function, repr(call.arguments), call.site.phase, case.rename(call.site.scope)


def _in_place(trace: Trace, calls: Sequence[Call]) -> bool:
    """Whether all that becomes of these is written into memory that was there before."""
    inside = {call.index for call in calls}
    writing = {call.index for call in calls if call.mutates}
    others = (call for call in trace.calls if call.index not in inside and call.kind != "view")
    return bool(writing) and not any(event.producer in inside - writing for call in others for event in call.reads)


def _one_memory(both: Sequence[tuple[Call, Call]]) -> bool:
    """Whether the memory that they write into is one and the same, each time."""
    pairs = {
        (ours.reads[at].storage, theirs.reads[at].storage)
        for ours, theirs in both
        for at in ours.mutates
        if at < len(theirs.reads)
    }
    alike = all(ours.mutates == theirs.mutates for ours, theirs in both)
    return alike and len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def _past(case: Case, both: Sequence[tuple[Call, Call]]) -> tuple[Call, Call] | None:
    """Paired calls with which the order matters, ahead of which one side carries out one of them, and the other not.

    One of the two writes into memory that the other sees, and none into what the other writes: else it is one value that goes
    through both, and a step of its way is moved (FO008).
    """
    few = both[:_FEW]
    own = set().union(*(_memory(theirs, written=True) for _, theirs in few))
    found: tuple[Call, Call] | None = None
    for pair in case.alignment.pairs:
        crossed = [one for ours, one in few if (pair.reference < ours.index) != (pair.candidate < one.index)]
        call = case.candidate.calls[pair.candidate]
        written, seen = _memory(call, written=True), _memory(call)
        if crossed and written & own:
            return None
        if found is None and any(written & _memory(one) or seen & _memory(one, written=True) for one in crossed):
            found = case.reference.calls[pair.reference], call
    return found


def _memory(call: Call, *, written: bool = False) -> set[int]:
    """What a call sees, or of that what it writes over."""
    places = call.mutates if written else range(len(call.reads))
    return {call.reads[at].storage for at in places if call.reads[at].storage >= 0}
