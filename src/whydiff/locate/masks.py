"""Masks that a run reads or computes, and experiments on what they hide: replays of one run with some values changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Value, executor_of
from whydiff.errors import WhydiffError
from whydiff.locate.rows import Array, fitted, other_rows, unsigned, within
from whydiff.numbers.metrics import is_integer, values
from whydiff.pair.replay import Outputs, Watch, replay
from whydiff.pair.slices import Axis
from whydiff.records import Call, Event, Leaf, Payload, Trace


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A tensor of zeros and ones that a run reads or computes.

    Attributes:
        name: of the input, or the site that computes it.
        values: bool, as the run has it.
        event: what writes it; None for an input.
    """

    name: str
    values: Array
    event: Event | None


def truth(payload: Payload) -> Array:
    """Where a mask is not zero."""
    return np.asarray(values(payload.bits, payload.dtype) != 0)


class Side:
    """Replays of one run with some values changed."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._plain: Outputs | None = None

    def possible(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[Axis]) -> Iterator[tuple[Event | None, Any]]:
        """(write, None) or (None, input) whose specs are those of a mask over an output's rows."""
        larger = {axis.small: axis.large for axis in axes}
        wanted = {size for shape in shapes for size in (shape[:2], shape[:1])}
        wanted |= {tuple(larger.get(n, n) for n in size) for size in wanted}

        def fits(shape: tuple[int, ...]) -> bool:
            return len(shape) == 2 and (shape in wanted or (shape[0] * shape[1],) in wanted)

        for leaf in self._inputs():
            if fits(leaf.spec.shape):
                yield None, leaf
        for call in self.trace.calls:
            if call.kind == "compute" and len(call.writes) == 1 and not call.mutates:
                event = call.writes[0]
                if event.storage >= 0 and is_integer(event.spec.dtype) and fits(event.spec.shape):
                    yield event, None

    def _inputs(self) -> list[Leaf]:
        return [leaf for leaf in self.trace.leaves if leaf.role == "input" and leaf.storage >= 0 and not leaf.skipped]

    def masks(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[Axis]) -> Iterator[Mask]:
        """Those that hold zeros and ones, both of them; each content once."""
        events, seen = [], set()
        executor = executor_of(self.trace)
        for event, leaf in self.possible(shapes, axes):
            if leaf is not None:
                found = executor.payload(executor.leaf_value(leaf))
                if is_mask(found):
                    seen.add(truth(found).tobytes())
                    yield Mask(leaf.name, truth(found), None)
            elif event is not None:
                events.append(event)
        wanted = {event.site.at(""): event for event in events}
        contents: list[tuple[Event, Payload]] = []

        def look(executor: Executor, call: Call) -> None:
            event = wanted.get(call.site)
            if event is not None:
                contents.append((event, executor.payload(executor.read(event))))

        if wanted:
            self._plain = self._outputs(look, {})
        for event, payload in contents:
            if is_mask(payload) and truth(payload).tobytes() not in seen:
                seen.add(truth(payload).tobytes())
                yield Mask(str(event.site.at("")).removeprefix(":"), truth(payload), event)

    def hides(self, mask: Mask, shown: bool) -> bool | None:
        """Whether the rows where a mask is not ``shown`` influence no other row, because of the mask; None: no such rows."""
        keep = mask.values == shown
        changed = self._changed(keep, *self._with_other_rows(keep))
        if changed is None:
            return None
        if (changed & keep).any() or not (changed & ~keep).any():
            return False
        flipped = np.zeros_like(keep)
        first = (~keep).argmax(axis=1)
        there = np.arange(len(keep)), first
        flipped[there] = ~keep[there]
        changed = self._changed(keep, *self._with_mask(mask, flipped))
        return changed is not None and bool((changed & ~flipped).any())

    def _changed(self, keep: Array, watch: Watch | None, restore: Mapping[str, Value]) -> Array | None:
        """Rows of the outputs in which a bit changes under a change; None: no output has such rows."""
        if self._plain is None:
            self._plain = self._outputs(None, {})
        found = None
        for slot, payload in self._outputs(watch, restore).items():
            before = self._plain[slot]
            lead = within(keep, payload.bits.shape)
            if (
                lead is None
                or is_integer(payload.dtype)
                or before.bits.shape != payload.bits.shape
                or not payload.bits.size
            ):
                continue
            unequal = (unsigned(before.bits) != unsigned(payload.bits)).reshape(*lead.shape, -1).any(axis=-1)
            one = (
                unequal.any(axis=tuple(range(1, lead.ndim - 1)))
                if lead.size > keep.size
                else unequal.reshape(keep.shape)
            )
            found = one if found is None else found | one
        return found

    def _with_other_rows(self, keep: Array) -> tuple[Watch | None, Mapping[str, Value]]:
        """Other values in the rows that are not kept, where floating rows first appear."""
        executor = executor_of(self.trace)
        restore = {}
        for leaf in self._inputs():
            if _has_rows(leaf.spec, keep):
                payload = executor.payload(executor.leaf_value(leaf))
                restore[leaf.name] = executor.adopt_foreign(other_rows(payload, keep))

        def change(executor: Executor, call: Call) -> None:
            if call.kind != "compute" or any(_has_rows(event.spec, keep) for event in call.reads):
                return
            for event in call.writes:
                if event.storage >= 0 and not event.is_look and _has_rows(event.spec, keep):
                    payload = other_rows(executor.payload(executor.read(event)), keep)
                    if not executor.overwrite(event, executor.adopt_foreign(payload)):
                        raise WhydiffError("A value cannot be exchanged.", where=str(event.site))

        return change, restore

    def _with_mask(self, mask: Mask, flipped: Array) -> tuple[Watch | None, Mapping[str, Value]]:
        executor = executor_of(self.trace)

        def turned(payload: Payload) -> Payload:
            one = payload.bits.reshape(-1)[np.flatnonzero(truth(payload).reshape(-1))[0]]
            zero = payload.bits.reshape(-1)[np.flatnonzero(~truth(payload).reshape(-1))[0]]
            return Payload(np.where(truth(payload) ^ flipped, one, zero).astype(payload.bits.dtype), payload.dtype)

        if mask.event is None:
            leaf = next(leaf for leaf in self.trace.leaves if leaf.name == mask.name)
            other = executor.adopt_foreign(turned(executor.payload(executor.leaf_value(leaf))))
            return None, {leaf.name: other}
        event = mask.event

        def change(executor: Executor, call: Call) -> None:
            if call.site == event.site.at(""):
                executor.overwrite(event, executor.adopt_foreign(turned(executor.payload(executor.read(event)))))

        return change, {}

    def _outputs(self, watch: Watch | None, restore: Mapping[str, Value]) -> Outputs:
        executor = executor_of(self.trace, restore=restore)
        return replay(executor, watch=watch).outputs


def is_mask(payload: Payload) -> bool:
    """Whether a tensor holds zeros and ones, both of them."""
    found = values(payload.bits, payload.dtype)
    return bool(np.isin(found, (0, 1)).all() and (found == 0).any() and (found == 1).any())


def _has_rows(spec: Any, keep: Array) -> bool:
    if is_integer(spec.dtype) or spec.numel <= keep.size:
        return False
    return fitted(keep, spec.shape) is not None
