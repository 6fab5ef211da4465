"""Ops that write into, or read, another part of a tensor than their counterparts: other elements, or another output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import View
from whydiff.explain.causes._flow import listed_indices
from whydiff.explain.causes._looks import one_value, places
from whydiff.explain.interventions import whole_of
from whydiff.pair.lockstep import matched
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


_MOST = 1 << 24


def other_parts(view: View) -> Iterator[tuple[Event, Event, str, str]]:
    """(reference's read, candidate's read, which part each is, in words) of one tensor of which they are not the same part."""
    if view.origin.kind != "layout" or view.single is None:
        return
    for er, ec in matched(*view.single, "reads"):
        ours, theirs = (
            _output_of(trace, event) or part_of(trace, event)
            for trace, event in ((view.case.reference, er), (view.case.candidate, ec))
        )
        if ours is not None and theirs is not None and ours != theirs and one_value(view.case, er, ec):
            yield er, ec, ours, theirs


def part_of(trace: Trace, event: Event) -> str | None:
    """Which elements of the tensor behind it a read looks at, in words: ``[:, 0–15]``; None if that is not known."""
    whole = whole_of(trace, event)
    return None if whole is None else elements(event, whole)


def elements(event: Event, whole: TensorSpec) -> str | None:
    if event.spec.numel > _MOST or not event.spec.numel:
        return None
    found = places(event) - whole.offset
    if found.min() < 0 or found.max() >= whole.numel:
        return None
    axes: list[str] = []
    if not whole.shape:
        return "[]"
    for size, at in zip(whole.shape, np.unravel_index(found, whole.shape), strict=True):
        marked = np.zeros(size, dtype=bool)
        marked[at] = True
        axes.append(":" if marked.all() else listed_indices(marked))
    return f"[{', '.join(axes)}]"


def _output_of(trace: Trace, event: Event) -> str:
    """Which of several outputs of one op a read is; empty if the op has one."""
    written = trace.calls[event.producer].writes if event.producer >= 0 else ()
    slots = [i for i, one in enumerate(written) if one.storage == event.storage]
    return f"output {slots[0]}" if len({one.storage for one in written}) > 1 and slots else ""
