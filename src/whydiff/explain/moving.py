"""``permute`` in a replay at another precision: the same numbers in another order.

It says the same in any dtype; a replay in the recorded dtypes carries it out itself (`whydiff.capturing.adapters.Change`).
``set-dtype`` says nothing there: every value is carried in the one dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from whydiff.capturing.adapters import Change, Executor
from whydiff.errors import ReplayError
from whydiff.explain.interventions import CHANGES, changes, whole_of
from whydiff.records import Call, Event, Intervention, Payload, Trace

LIFTED = frozenset({"permute", "set-dtype"})


def liftable(interventions: Sequence[Intervention]) -> bool:
    """Whether all changes of calls among interventions say the same at any precision."""
    return all(item.name in LIFTED for item in interventions if item.name in CHANGES)


def moving(trace: Trace, interventions: Sequence[Intervention]) -> _Moving | None:
    """Who carries such changes out as calls are executed; None: there are none.

    Raises:
        ReplayError: see `whydiff.explain.interventions.changes`.
    """
    chosen = changes(trace, [item for item in interventions if item.name in LIFTED])
    return _Moving(trace, chosen) if chosen else None


class _Moving:
    def __init__(self, trace: Trace, chosen: Mapping[int, Change]) -> None:
        self.trace, self.chosen = trace, chosen
        self.reads: dict[int, list[tuple[Event, Sequence[int]]]] = {}
        for index, how in chosen.items():
            for position, (_, places) in how.reads.items():
                event = trace.calls[index].reads[position]
                self.reads.setdefault(event.producer, []).append((event, places))

    def begin(self, executor: Executor) -> None:
        """Before anything is executed: what no call makes."""
        self._stand_in(executor, -1)

    def watch(self, executor: Executor, call: Call) -> None:
        """After a call."""
        how = self.chosen.get(call.index)
        for slot, places in (how.writes if how is not None else {}).items():
            event = call.writes[slot]
            held = executor.payload(executor.read(event))
            made = Payload(np.ascontiguousarray(held.bits.reshape(-1)[places].reshape(held.bits.shape)), held.dtype)
            if not executor.overwrite(event, executor.adopt_foreign(made)):
                raise ReplayError("A value cannot be put in another's place.", where=str(event.site))
        self._stand_in(executor, call.index)

    def _stand_in(self, executor: Executor, producer: int) -> None:
        for event, places in self.reads.get(producer, ()):
            whole = whole_of(self.trace, event)
            assert whole is not None  # `changes` has looked
            held = executor.payload(executor.read(replace(event, spec=whole)))
            line = np.ascontiguousarray(held.bits.reshape(-1)[places])
            width, spec = line.itemsize, event.spec
            seen = np.ndarray(
                spec.shape,
                line.dtype,
                line,
                (spec.offset - whole.offset) * width,
                [n * width for n in spec.strides or ()],
            )
            if not executor.stand_in(event, executor.adopt_foreign(Payload(np.ascontiguousarray(seen), held.dtype))):
                raise ReplayError("A value cannot be put in another's place.", where=str(event.site))
