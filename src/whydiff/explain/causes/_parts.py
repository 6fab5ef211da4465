"""Ops that read another part of a tensor than their counterparts: other elements, or another output of one op."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from whydiff.explain.causes._explained import View
from whydiff.explain.causes._flow import listed_indices
from whydiff.explain.causes._looks import one_value, places
from whydiff.explain.interventions import whole_of
from whydiff.pair.lockstep import matched
from whydiff.records import Event, TensorSpec, Trace

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
