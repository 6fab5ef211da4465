"""Overflows of a recorded program, by replay, for adapters that have no range audit of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework, replayable
from whydiff.errors import WhydiffError
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.ranges import LIMITS, Range, limits, measure_array
from whydiff.numbers.ranges.audit import Alarm
from whydiff.pair.replay import replay
from whydiff.records import Call, Lift, Payload, Trace

_FAILURES = (WhydiffError, RuntimeError, TypeError, ValueError, LookupError, ArithmeticError)


def overflows(trace: Trace) -> tuple[Alarm, ...]:
    """An alarm for every op that makes infinity or NaN of finite numbers where float64 does not.

    None where the program asks for infinity (an argument, a constant that it reads), and none for what is computed from
    an overflow.

    Args:
        trace: of a program; one that cannot be replayed raises no alarm.
    """
    if replayable(trace):
        return ()
    adapter = for_framework(trace.framework)
    try:
        found = _Overflows(adapter.executor(trace, lift=Lift("float64")))
        replay(adapter.executor(trace), before=found.before, watch=found.after)
    except WhydiffError:
        return ()
    return tuple(found.alarms.values())


class _Overflows:
    """What one replay meets."""

    def __init__(self, wide: Executor) -> None:
        self.wide = wide
        self.alarms: dict[Any, Alarm] = {}
        self._ranges: dict[int, Range] = {}

    def before(self, executor: Executor, call: Call) -> None:
        """Ranges of what is read, where nothing that was executed wrote it."""
        for event in call.reads if call.kind == "compute" else ():
            if event.storage not in self._ranges and event.spec.dtype in LIMITS and event.storage >= 0:
                self._ranges[event.storage] = _range(executor.payload(executor.read(event)))

    def after(self, executor: Executor, call: Call) -> None:
        """Ranges of what was written, and an alarm if infinity or NaN is new there."""
        if call.kind != "compute":
            return
        read = [self._ranges[event.storage] for event in call.reads if event.storage in self._ranges]
        for slot, event in enumerate(call.writes):
            if event.spec.dtype not in LIMITS or event.storage < 0:
                continue
            written = self._ranges[event.storage] = _range(executor.payload(executor.written(event)))
            if not written.finite and read and all(one.finite for one in read) and not _asked_for(call.arguments):
                self._alarm(executor, call, slot, written, max(one.max_abs for one in read))

    def _alarm(self, executor: Executor, call: Call, slot: int, written: Range, largest: float) -> None:
        exact = self._in_float64(executor, call, slot)
        if exact is None or not exact.finite:
            return  # a pole of the function (log 0, 1 / 0): no dtype would help
        site = replace(call.site, step=0)
        data: dict[str, Any] = {
            "infs": written.infs,
            "nans": written.nans,
            "elements": written.elements,
            "largest_input": largest,
            "true_largest": exact.max_abs,
        }
        if exact.max_abs > limits(written.dtype).largest:
            data["fits"] = ", ".join(name for name, form in LIMITS.items() if form.largest >= exact.max_abs)
        known, step = self.alarms.get(site), call.site.step
        if known is None:
            self.alarms[site] = Alarm("overflow", call.site, written.dtype, data, 1, (step, step), (step,))
        else:
            every = tuple(dict.fromkeys((*known.every, step)))
            self.alarms[site] = replace(known, count=known.count + 1, steps=(every[0], step), every=every)

    def _in_float64(self, executor: Executor, call: Call, slot: int) -> Range | None:
        """What the op alone writes in float64 on the same inputs; None: it cannot be carried out so."""
        try:
            given = [_wide(executor.payload(executor.read(event))) for event in call.reads]
            with self.wide.running():
                outputs = list(self.wide.apply(call, [self.wide.adopt_foreign(payload) for payload in given]))
            return _range(self.wide.payload(outputs[slot]))
        except _FAILURES:
            return None


def _range(payload: Payload) -> Range:
    return measure_array(payload.bits, payload.dtype)


def _wide(payload: Payload) -> Payload:
    if is_integer(payload.dtype):
        return payload
    return Payload(
        np.ascontiguousarray(values(payload.bits, payload.dtype), np.float64).reshape(payload.bits.shape), "float64"
    )


def _asked_for(arguments: Any) -> bool:
    """Whether a number among a call's arguments is not finite."""
    if isinstance(arguments, Mapping):
        return any(_asked_for(value) for value in arguments.values())
    if isinstance(arguments, (list, tuple)):
        return any(_asked_for(value) for value in arguments)
    return isinstance(arguments, float) and not math.isfinite(arguments)
