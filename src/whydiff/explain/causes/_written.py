"""In-place writes that put one value into other places of a tensor than their counterparts do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whydiff.explain.case import Case
from whydiff.explain.causes._looks import places
from whydiff.records import Call, Event, Intervention, TensorSpec, Trace


@dataclass(frozen=True, slots=True)
class Written:
    """One pair of in-place writes into counterparts of one tensor, at other places.

    Attributes:
        calls: that write, of the reference and of the candidate.
        looks: where each writes.
        wholes: the whole tensor that each writes into.
    """

    calls: tuple[Call, Call]
    looks: tuple[Event, Event]
    wholes: tuple[TensorSpec, TensorSpec]

    def write_there(self, case: Case) -> tuple[Intervention, ...]:
        """The candidate's op writes where the reference's does; empty where the tensor was not made in the run."""
        ours, theirs = self.looks
        made = case.candidate.calls[theirs.producer].writes if theirs.producer >= 0 else ()
        target = next((event for event in made if event.storage == theirs.storage), None)
        if target is None or self.wholes[0] != self.wholes[1]:
            return ()
        spec = ours.spec
        return (Intervention("read-from", str(theirs.site), (str(target.site), spec.shape, spec.strides, spec.offset)),)


def written_elsewhere(case: Case, er: Event, ec: Event, before: int) -> Iterator[Written]:
    """Paired writes into what two reads look at, of equal shapes and at other places, before a call of the candidate."""
    wholes = _whole(case.reference, er), _whole(case.candidate, ec)
    if wholes[0] is None or wholes[1] is None:
        return
    for ours, theirs in case.paired():
        if theirs.index >= before:
            return
        looks = _into(ours, er.storage), _into(theirs, ec.storage)
        if looks[0] is None or looks[1] is None or looks[0].spec.shape != looks[1].spec.shape:
            continue
        if (places(looks[0]) != places(looks[1])).any():
            yield Written((ours, theirs), (looks[0], looks[1]), (wholes[0], wholes[1]))


def _into(call: Call, storage: int) -> Event | None:
    return next((call.reads[i] for i in call.mutates if call.reads[i].storage == storage), None)


def _whole(trace: Trace, event: Event) -> TensorSpec | None:
    """The largest look at a storage that made or held it."""
    specs = [leaf.spec for leaf in trace.leaves if leaf.storage == event.storage]
    specs += [one.spec for call in trace.calls for one in call.writes if one.storage == event.storage]
    return max(specs, key=lambda spec: spec.numel, default=None)
