"""What a run gave back, as it was recorded."""

from __future__ import annotations

from collections.abc import Iterator

from whydiff.pair.replay import returns
from whydiff.records import Call, Event, Output, Slot, Trace


def recorded_outputs(trace: Trace) -> tuple[Output, ...]:
    """What a run gave back; of a trace that does not record it, what its calls of kind ``return`` read."""
    if trace.outputs is not None:
        return tuple(trace.outputs)
    number = returns(trace.calls)
    return tuple(one for call in trace.calls for one in read_by(call, number.get(call.index, -1), trace))


def output_of(slot: Slot, event: Event, trace: Trace) -> Output:
    """One value as it was recorded, as an output."""
    payload = trace.payload(event.payload) if event.payload else None
    content = event.fingerprint if event.fingerprint and event.fingerprint.covers == "content" else None
    if payload is None and content is None:
        return Output(slot, "unreadable", "Tensor", text=event.skipped or "no fingerprint of its elements")
    return Output(slot, "numbers", "Tensor", payload=payload, spec=event.spec, fingerprint=content)


def read_by(call: Call, number: int, trace: Trace) -> Iterator[Output]:
    """The outputs that a call of kind ``return`` gives back, under the number of that return; of others nothing."""
    if call.kind == "return":
        for event in call.reads:
            yield output_of(Slot(number, event.site.slot), event, trace)
