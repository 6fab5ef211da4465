"""Operations made from recorded calls: one call, or the calls of a region, executed by a lifted replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import ReplayError
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Event, Payload


def exact_values(payload: Payload) -> Array:
    """A payload's exact values: float64 for floats, integers and booleans as they are.

    Raises:
        ReplayError: complex numbers.
    """
    if payload.dtype.startswith("complex"):
        raise ReplayError("The local test has no oracle for complex numbers.", actual=payload.dtype)
    found = values(payload.bits, payload.dtype)
    return found if is_integer(payload.dtype) else np.asarray(found, dtype=np.float64)


def operation(call: Call, reads: Sequence[Payload], slot: int, lifted: Executor) -> Operation:
    """One recorded call on given inputs.

    Args:
        call: of kind ``compute``.
        reads: what it read, in order.
        slot: which written event is judged.
        lifted: executor of the call's trace, lifted to float64.
    """
    spec = call.writes[slot].spec

    def run(arrays: Sequence[Array], arguments: Any) -> Array:
        return _apply(replace(call, arguments=arguments), arrays, lifted)[slot]

    adapter = for_framework(lifted.framework)
    return Operation(
        name=call.site.op,
        reads=tuple(exact_values(p) for p in reads),
        dtypes=tuple(p.dtype for p in reads),
        arguments=call.arguments,
        shape=spec.shape,
        dtype=spec.dtype,
        run=run,
        roles=adapter.roles(call.site.op),
        at=adapter.places(call.site.op),
    )


def _apply(call: Call, arrays: Sequence[Array], lifted: Executor) -> list[Array]:
    """A call in float64 on arrays; what it returned, else what it changed.

    Raises:
        ReplayError: it cannot be lifted.
    """
    before = _not_lifted(lifted)
    tensors = [lifted.adopt_foreign(Payload(np.ascontiguousarray(a), a.dtype.name)) for a in arrays]
    outputs = list(lifted.apply(call, tensors)) or [tensors[i] for i in call.mutates]
    if _not_lifted(lifted) > before:
        raise ReplayError("The op cannot be executed in float64.", where=str(call.site), actual=call.target)
    return [exact_values(lifted.payload(t)) for t in outputs]


def _not_lifted(lifted: Executor) -> int:
    return sum(count.count for count in lifted.counts() if count.code == "not lifted")


class Region:
    """Several recorded calls as one operation: storages in float64, looks by strides.

    Args:
        calls: in execution order; nothing but them makes the values between its inputs and its result.
        result: the event whose value is judged.
        lifted: executor of the trace, lifted to float64.
    """

    def __init__(self, calls: Sequence[Call], result: Event, lifted: Executor) -> None:
        self.calls, self.result, self.lifted = calls, result, lifted
        made: set[int] = set()
        self._by_call: dict[int, list[Event]] = {}
        for call in calls:
            known = [e for e in call.reads if not e.overwritten and e.storage not in made]
            if known:
                self._by_call[call.index] = known
            made |= {event.storage for event in call.writes if event.storage >= 0}
        self.inputs = [event for events in self._by_call.values() for event in events]
        if result.storage not in made:
            self.inputs.append(result)

    def reads_by_call(self) -> dict[int, list[Event]]:
        """Call index → the region's inputs that it reads, to be copied just before it is executed."""
        return self._by_call

    def operation(self, reads: Sequence[Payload]) -> Operation:
        """The region on the values of ``inputs``."""
        stored = [e.spec.dtype for call in self.calls for e in call.writes if e.spec.dtype in UNIT_ROUNDOFF]
        return Operation(
            "region" if self.calls else "value",
            tuple(exact_values(p) for p in reads),
            tuple(p.dtype for p in reads),
            [[], {}],
            self.result.spec.shape,
            self.result.spec.dtype,
            self._run,
            max(len(self.calls), 2),
            max(stored, key=lambda name: UNIT_ROUNDOFF[name], default=""),
        )

    def _run(self, arrays: Sequence[Array], _: Any) -> Array:
        memory: dict[int, Array] = {}
        for event, values_in in zip(self.inputs, arrays, strict=True):
            _place(memory, event, values_in)
        for call in self.calls:
            reads = [
                np.zeros(event.spec.shape)
                if event.overwritten and event.storage not in memory
                else _look(memory, event)
                for event in call.reads
            ]
            outputs = _apply(call, reads, self.lifted)
            for event, output in zip(call.writes, outputs, strict=False):
                if event.storage >= 0 and not event.is_look:
                    _place(memory, event, output)
        return _look(memory, self.result)


def positions(written: Sequence[Event], result: Event) -> tuple[int, Array] | None:
    """Which written event a look is a rearrangement of, and where its elements are in the look.

    Returns:
        (slot, flat positions in the look, in the order of the written tensor), or None if the look covers
        other elements (a slice, a broadcast).
    """
    for slot, event in enumerate(written):
        if event.storage != result.storage or event.spec.dtype != result.spec.dtype:
            continue
        ours, theirs = _offsets(event), _offsets(result)
        if ours.size != theirs.size:
            continue
        order = np.argsort(theirs, kind="stable")
        found = order[np.searchsorted(theirs[order], ours).clip(max=max(theirs.size - 1, 0))]
        if np.array_equal(theirs[found], ours) and np.unique(ours).size == ours.size:
            return slot, found
    return None


def _offsets(event: Event) -> Array:
    spec = event.spec
    strides = spec.strides or _contiguous(spec.shape)
    places = np.full(spec.shape, spec.offset, dtype=np.int64)
    for axis, (size, stride) in enumerate(zip(spec.shape, strides, strict=True)):
        places += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(spec.shape) - axis - 1))
    return places.reshape(-1)


def _place(memory: dict[int, Array], event: Event, content: Array) -> None:
    """Write a value into its storage, as its layout says."""
    spec = event.spec
    strides = spec.strides or _contiguous(spec.shape)
    need = _end(event) if content.size else 0
    held = memory.get(event.storage)
    if held is None or held.size < need:
        grown = np.zeros(need, dtype=content.dtype)
        if held is not None:
            grown[: held.size] = held
        memory[event.storage] = held = grown
    if content.size:
        _strided(held, spec.shape, strides, spec.offset)[...] = content.reshape(spec.shape)


def _look(memory: dict[int, Array], event: Event) -> Array:
    """What an event looks at, copied.

    Raises:
        ReplayError: nothing in the region made it, or it looks past what is known.
    """
    spec = event.spec
    strides = spec.strides or _contiguous(spec.shape)
    held = memory.get(event.storage)
    if held is None or (spec.numel and held.size < _end(event)):
        raise ReplayError("A value inside the region is not known.", where=str(event.site))
    return _strided(held, spec.shape, strides, spec.offset).copy()


def _strided(held: Array, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    steps = tuple(stride * held.itemsize for stride in strides)
    return np.lib.stride_tricks.as_strided(held[offset:], shape, steps, writeable=True)


def _end(event: Event) -> int:
    """One past the last element of its storage that an event looks at."""
    spec = event.spec
    strides = spec.strides or _contiguous(spec.shape)
    return spec.offset + 1 + sum((n - 1) * s for n, s in zip(spec.shape, strides, strict=True))


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
