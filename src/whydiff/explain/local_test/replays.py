"""Operations made from recorded calls: one call, or the calls of a region, executed by a lifted replay."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import ReplayError
from whydiff.explain.local_test.exact import Reads, exact_values
from whydiff.explain.local_test.looks import Layout, Look, identical, is_complex, layout_of
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.numbers.metrics import real_part_dtype
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Event, Payload

Seen = Callable[[Call, Sequence[Array], Sequence[Array]], None]
Given = Mapping[int, Sequence[Array]]
_KEPT = 1 << 18
"""Numbers of a region that are kept in float64 from one time to the next (a size, not a tolerance)."""
_SPARSE = 8
"""Places that lie further apart than this, on average, are looked up by sorting instead of in a table."""


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
    paired = any(is_complex(event) for event in (*call.reads, *call.writes))  # no formula here is written for pairs
    return Operation(
        name=call.site.op,
        reads=Reads(reads),
        dtypes=tuple(real_part_dtype(p.dtype) for p in reads),
        arguments=call.arguments,
        shape=layout_of(call.writes[slot])[0],
        dtype=real_part_dtype(spec.dtype),
        run=run,
        roles=frozenset() if paired else adapter.roles(call.site.op),
        at={} if paired else adapter.places(call.site.op),
    )


def _apply(call: Call, arrays: Sequence[Array], lifted: Executor) -> list[Array]:
    """A call in float64 on arrays; what it returned, else what it changed.

    Raises:
        ReplayError: it cannot be lifted.
    """
    before = _not_lifted(lifted)
    given = [_as_numbers(a, event) for a, event in zip(arrays, call.reads, strict=True)]
    whole = [np.ascontiguousarray(a).reshape(a.shape) for a in given]  # a single number stays one: no axis is added
    tensors = [lifted.adopt_foreign(Payload(a, _name(a.dtype))) for a in whole]
    outputs = list(lifted.apply(call, tensors)) or [tensors[i] for i in call.mutates]
    if _not_lifted(lifted) > before:
        raise ReplayError("The op cannot be executed in float64.", where=str(call.site), actual=call.target)
    return [exact_values(lifted.payload(t)) for t in outputs]


@functools.cache
def _name(dtype: np.dtype[Any]) -> str:
    """Asked of numpy itself it takes as long as a small op."""
    return dtype.name


def _as_numbers(array: Array, event: Event) -> Array:
    """What an event's values are given to an op as: pairs become complex numbers again."""
    if not is_complex(event):
        return array
    return np.asarray(np.ascontiguousarray(array, dtype=np.float64).view(np.complex128)[..., 0])


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
        self._kept: _Kept | None = None

    def reads_by_call(self) -> dict[int, list[Event]]:
        """Call index → the region's inputs that it reads, to be copied just before it is executed."""
        return self._by_call

    def operation(self, reads: Sequence[Payload]) -> Operation:
        """The region on the values of ``inputs``."""
        stored = [real_part_dtype(e.spec.dtype) for call in self.calls for e in call.writes]
        stored = [dtype for dtype in stored if dtype in UNIT_ROUNDOFF]
        return Operation(
            "region" if self.calls else "value",
            Reads(reads),
            tuple(real_part_dtype(p.dtype) for p in reads),
            [[], {}],
            layout_of(self.result)[0],
            real_part_dtype(self.result.spec.dtype),
            self._run,
            max(len(self.calls), 2),
            max(stored, key=lambda name: UNIT_ROUNDOFF[name], default=""),
        )

    def _run(self, arrays: Sequence[Array], _: Any) -> Array:
        return self.run(arrays)

    def run(
        self,
        arrays: Sequence[Array],
        *,
        seen: Seen | None = None,
        given: Given | None = None,
        changed: Changed | None = None,
    ) -> Array:
        """The region on the values of ``inputs``.

        What the calls gave at first is kept (`_KEPT`): one that reads the same again is not carried out again.

        Args:
            arrays: these, in float64.
            seen: told of every call with what it reads and what it gives.
            given: call index → what it writes instead of what it computes, each in the order of its elements.
            changed: calls with other arguments in the place of some.
        """
        given, instead = given or {}, {} if changed is None else changed.calls
        kept = self._kept
        made = _Kept([], {}) if kept is None and not given and not instead and self._is_small else None
        memory: dict[int, Array] = {}
        other: set[int] = set()  # storages that do not hold what they held at first
        for position, (look, values_in) in enumerate(zip(self._looks, arrays, strict=True)):
            look.place(memory, values_in)
            if made is not None:
                made.inputs.append(values_in.copy())
            elif kept is None or not identical(values_in, kept.inputs[position]):
                other.add(look.storage)
        with self.lifted.running() if self.calls else nullcontext():
            for step in self._steps:
                index = step.call.index
                again = kept is not None and not (index in given or index in instead or other & step.asks)
                reads = [] if again and seen is None else step.read(memory)
                if kept is not None and again:
                    outputs = kept.outputs[index]
                else:
                    by = self.lifted if changed is None or index not in instead else changed.lifted
                    outputs = given.get(index) or _apply(instead.get(index, step.call), reads, by)
                    other |= step.makes
                if made is not None:
                    made.outputs[index] = outputs
                if seen is not None:
                    seen(step.call, reads, outputs)
                for written, output in zip(step.writes, outputs, strict=False):
                    if written is not None:
                        written.place(memory, output)
        if made is not None:
            self._kept = made
        return self._result.of(memory)

    @functools.cached_property
    def _steps(self) -> list[_Step]:
        return [_Step(call) for call in self.calls]

    @functools.cached_property
    def _looks(self) -> list[Look]:
        return [Look(event) for event in self.inputs]

    @functools.cached_property
    def _result(self) -> Look:
        return Look(self.result)

    @functools.cached_property
    def _is_small(self) -> bool:
        written = (look.size for step in self._steps for look in step.writes if look is not None)
        return sum(look.size for look in self._looks) + sum(written) <= _KEPT


class _Step:
    """A call of a region with its looks.

    Attributes:
        writes: None: nothing is written there.
        asks: storages that it reads.
        makes: storages that it writes.
    """

    __slots__ = ("_reads", "asks", "call", "makes", "writes")

    def __init__(self, call: Call) -> None:
        self.call = call
        self._reads = [(Look(event), event.overwritten) for event in call.reads]
        self.writes = [None if event.storage < 0 or event.is_look else Look(event) for event in call.writes]
        self.asks = {one.storage for one, _ in self._reads}
        self.makes = {one.storage for one in self.writes if one is not None}

    def read(self, memory: dict[int, Array]) -> list[Array]:
        """What it reads; what it only overwrites may be anything."""
        return [
            np.zeros(look.shape) if overwritten and look.storage not in memory else look.of(memory)
            for look, overwritten in self._reads
        ]


class Changed(NamedTuple):
    """Calls with other arguments, by the index of those whose places they take, and an executor that knows them so."""

    calls: Mapping[int, Call]
    lifted: Executor


class _Kept(NamedTuple):
    """What a region was given when it was first carried out as it was recorded, and by call what that gave."""

    inputs: list[Array]
    outputs: dict[int, Sequence[Array]]


def positions(written: Sequence[Event], result: Event) -> tuple[int, Array] | None:
    """Which written event a look is a rearrangement of, and where its elements are in the look.

    Returns:
        (slot, flat positions in the look, in the order of the written tensor), or None if the look covers
        other elements (a slice, a broadcast).
    """
    for slot, event in enumerate(written if not is_complex(result) else ()):
        if event.storage != result.storage or event.spec.dtype != result.spec.dtype:
            continue
        if event.spec.numel != result.spec.numel:
            continue
        found = _rearranged(layout_of(event), layout_of(result))
        if found is not None:
            return slot, found
    return None


@functools.lru_cache(maxsize=8)  # asked for on both sides, before and after the judgement
def _rearranged(ours: Layout, theirs: Layout) -> Array | None:
    """Where the elements of one look stand in the other, both flat; None if they are not the same."""
    whole = ours == theirs and _distinct(ours)
    found = np.arange(math.prod(ours[0])) if whole else _found_in(_offsets(*ours), _offsets(*theirs))
    if found is not None:
        found.flags.writeable = False
    return found


def _distinct(layout: Layout) -> bool:
    """Whether it is easy to see that no element of a look is another one of it."""
    reach = 0  # how far the dimensions of smaller steps go
    for stride, size in sorted((stride, size) for size, stride in zip(*layout[:2], strict=True) if size > 1):
        if stride <= reach:
            return False
        reach += (size - 1) * stride
    return True


def _found_in(ours: Array, theirs: Array) -> Array | None:
    """Where each of our places is among theirs, as many; None if they are not the same, or ours are not all distinct."""
    if not ours.size:
        return ours
    low, high = int(ours.min()), int(ours.max())
    if int(theirs.min()) != low or int(theirs.max()) != high:
        return None
    if high - low >= _SPARSE * ours.size:
        order = np.argsort(theirs, kind="stable")
        found = order[np.searchsorted(theirs[order], ours).clip(max=theirs.size - 1)]
        return found if np.array_equal(theirs[found], ours) and np.unique(ours).size == ours.size else None
    at = np.full(high - low + 1, -1, dtype=np.int64)
    at[theirs[::-1] - low] = np.arange(theirs.size)[::-1]  # the first of equals
    found = at[ours - low]
    distinct = np.zeros(at.size, dtype=bool)
    distinct[ours - low] = True
    return found if (found >= 0).all() and int(distinct.sum()) == ours.size else None


def _offsets(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    places = np.full(shape, offset, dtype=np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        places += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(shape) - axis - 1))
    return places.reshape(-1)
