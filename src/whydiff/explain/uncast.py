"""A recorded program with its cast undone: the same calls in the wider dtype, on the tensors that were not rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework, replayable, retyped
from whydiff.errors import WhydiffError
from whydiff.explain.interventions import edits
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.pair.replay import replay
from whydiff.records import Call, Event, Fingerprint, Intervention, Leaf, Payload, Site, Trace


class Uncast:
    """A `whydiff.records.Trace` whose calls, leaves and tensors are others; everything else is the original's.

    Args:
        trace: the original.
        calls, leaves: in the place of its own.
        given: key → the full tensor behind it, in the place of the original's.
    """

    outputs = None

    def __init__(
        self, trace: Trace, calls: Sequence[Call], leaves: Sequence[Leaf], given: Mapping[str, Payload]
    ) -> None:
        self._trace, self._given = trace, given
        self.calls, self.leaves = tuple(calls), tuple(leaves)
        kept = {leaf.name for leaf in leaves if leaf.payload not in given}
        self.handles = {name: value for name, value in trace.handles.items() if name in kept}
        self.payloads = {**trace.payloads, **given}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)

    def payload(self, key: str) -> Payload | None:
        """The full tensor behind a key; None: it was not kept."""
        return self._given.get(key) or self._trace.payload(key)


def uncast(
    trace: Trace, wide: str, narrow: str, tensors: Mapping[str, Payload], numbers: Sequence[Intervention] = ()
) -> Trace | None:
    """The program as if it had never been cast; None: not all of it can be carried out so.

    Args:
        trace: of the side that was cast.
        wide, narrow: dtypes.
        tensors: name of a leaf → what it was before it was rounded.
        numbers: gives calls the numbers that were not rounded (``set-argument``).
    """
    if replayable(trace):
        return None
    dtypes = {narrow: wide}
    given = {f"uncast/{leaf.name}": tensors[leaf.name] for leaf in trace.leaves if leaf.name in tensors}
    leaves = [_leaf(leaf, tensors.get(leaf.name)) for leaf in trace.leaves]
    edited = edits(trace, numbers)
    calls = [_call(edited.get(call.index, call), dtypes) for call in trace.calls]
    made: Any = Uncast(trace, calls, leaves, given)
    prints: dict[Site, Fingerprint] = {}

    def note(executor: Executor, events: Sequence[Event]) -> None:
        for event in events:
            if event.storage >= 0 and not event.skipped:
                bits = executor.payload(executor.read(event)).bits
                prints[event.site] = fingerprint_bytes(np.ascontiguousarray(bits))

    try:
        done = replay(
            for_framework(trace.framework).executor(made),
            before=lambda executor, call: note(executor, call.reads),
            watch=lambda executor, call: note(executor, call.writes),
        )
    except WhydiffError:
        return None
    if done.failed:
        return None
    found: Any = Uncast(trace, [_printed(call, prints) for call in calls], leaves, given)
    return found  # type: ignore[no-any-return]


def _leaf(leaf: Leaf, tensor: Payload | None) -> Leaf:
    if tensor is None:
        return leaf
    return replace(
        leaf,
        spec=replace(leaf.spec, dtype=tensor.dtype),
        fingerprint=fingerprint_bytes(np.ascontiguousarray(tensor.bits)),
        payload=f"uncast/{leaf.name}",
    )


def _call(call: Call, dtypes: Mapping[str, str]) -> Call:
    return replace(
        call,
        reads=tuple(_event(event, dtypes) for event in call.reads),
        writes=tuple(_event(event, dtypes) for event in call.writes),
        arguments=retyped(call.arguments, dtypes),
    )


def _event(event: Event, dtypes: Mapping[str, str]) -> Event:
    dtype = dtypes.get(event.spec.dtype, event.spec.dtype)
    return replace(event, spec=replace(event.spec, dtype=dtype), fingerprint=None, payload="")


def _printed(call: Call, prints: Mapping[Site, Fingerprint]) -> Call:
    return replace(
        call,
        reads=tuple(replace(event, fingerprint=prints.get(event.site)) for event in call.reads),
        writes=tuple(replace(event, fingerprint=prints.get(event.site)) for event in call.writes),
    )
