"""What the causes of range share: alarms of the candidate's replay, and the replay in a wider dtype.

Overflows are found by replay for adapters that have no range audit of their own.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from whydiff.capturing.adapters import Executor, executor_of, for_framework, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import out_of_range
from whydiff.explain.causes._range_put import both_ways
from whydiff.explain.causes._rule import CauseRule
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.ranges import LIMITS, Range, limits, measure_array
from whydiff.numbers.ranges.audit import Alarm
from whydiff.numbers.tolerance import UNDERFLOW_SHARE
from whydiff.pair.replay import replay
from whydiff.records import (
    Call,
    Cause,
    Evidence,
    Experiment,
    Intervention,
    Lift,
    Payload,
    Remedy,
    Status,
    Trace,
    Verdict,
)

_TOO_LARGE = ("overflow", "hidden")


def alarms(case: Case, kind: str) -> Iterator[Alarm]:
    """Alarms of one kind that the candidate's run raises and the reference's does not.

    The runs are audited (by replay, once per case) only if somewhere a number is finite on one side alone; and for what is
    too large, where the candidate works in a dtype of a smaller range than all of the reference's: behind what hides an
    overflow every number is finite. The reference is audited only where the candidate raises an alarm.
    """
    if not out_of_range(case) and not (kind in _TOO_LARGE and smaller_range(case)):
        return
    theirs = case.shared("ranges of the candidate", lambda: _audit(case.candidate))
    if not any(alarm.kind == kind for alarm in theirs):
        return
    ours = case.shared("ranges of the reference", lambda: _audit(case.reference))
    reference = {(alarm.kind, case.rename(str(alarm.site))) for alarm in ours}
    yield from (alarm for alarm in theirs if alarm.kind == kind and (kind, str(alarm.site)) not in reference)


def smaller_range(case: Case) -> bool:
    """Whether the candidate computes in a dtype whose largest number is smaller than that of each of the reference's."""
    largest = [
        min(
            (limits(e.spec.dtype).largest for c in trace.calls for e in c.writes if e.spec.dtype in LIMITS), default=0.0
        )
        for trace in case.traces
    ]
    return 0 < largest[1] < largest[0]


def _audit(trace: Trace) -> tuple[Alarm, ...]:
    audit = for_framework(trace.framework).audit(trace)
    return audit.alarms if audit is not None else overflows(trace)


def measured(alarm: Alarm, sentence: str) -> tuple[Evidence, ...]:
    """The alarm's numbers as evidence."""
    times = "" if alarm.count == 1 else f", in {alarm.count} calls (steps {alarm.steps[0]} to {alarm.steps[1]})"
    return (Evidence(sentence + times, dict(alarm.data)),)


class RangeRule(CauseRule):
    """A cause of numbers that a format cannot hold; the first kind of its `alarms` is what it looks for."""

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per op of the candidate that raises the alarm, with the replay in a wider dtype as its experiment."""
        for alarm in alarms(case, self.alarms[0]):
            yield proven(case, replace(self.from_alarm(alarm), interventions=(widen(alarm),)), alarm)

    @abc.abstractmethod
    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and its rewrites."""

    def from_alarm(self, alarm: Alarm) -> Cause:
        """The cause of a range audit's alarm, with its rewrites as interventions."""
        return alarmed(self, alarm, *self.told(alarm))


def alarmed(rule: CauseRule, alarm: Alarm, sentence: str, remedy: Remedy, tried: tuple[Intervention, ...]) -> Cause:
    """A cause of a range audit's alarm."""
    return rule.cause(
        site=str(alarm.site),
        verdict=Verdict.UNSTABLE,
        evidence=measured(alarm, sentence),
        remedy=remedy,
        interventions=tried,
    )


def wider(alarm: Alarm) -> Literal["float32", "float64"]:
    """The dtype in which every narrower number is carried to try a cure: float64 where float32 is what failed."""
    beyond = alarm.data.get("true_largest", 0.0) > limits("float32").largest
    return "float64" if beyond or alarm.dtype == "float32" else "float32"


def widen(alarm: Alarm) -> Intervention:
    """Carry every narrower number in a wider dtype; done by a lifted replay."""
    return Intervention("widen", str(alarm.site), wider(alarm))


def proven(case: Case, cause: Cause, alarm: Alarm) -> Cause:
    """A cause with its experiments: the candidate's ops in a wider dtype (`widened`), the reference's in its dtypes."""
    return both_ways(case, with_experiment(cause, alarm, widened(case.candidate, alarm)), alarm)


def with_experiment(cause: Cause, alarm: Alarm, found: Range | str) -> Cause:
    """Confirmed if the site's numbers are finite in a wider dtype, or if they do not vanish there.

    Args:
        cause: of the alarm.
        alarm: what was raised.
        found: from `widened`.
    """
    if isinstance(found, str):
        return replace(cause, reason=cause.reason or found)
    if alarm.kind == "underflow":
        cured, prediction, outcome = _kept(alarm, found)
    else:
        cured, prediction = found.finite, f"in {wider(alarm)} the same numbers are finite at this site"
        largest = f"largest {found.max_abs:.4g}"
        outcome = (
            f"finite, {largest}" if cured else f"still not finite ({largest.replace('largest', 'largest finite')})"
        )
    status: Status = "confirmed" if cured else "refuted"
    tried = tuple(item for item in cause.interventions if item.name == "widen")
    experiment = Experiment(
        interventions=tried or cause.interventions,
        prediction=prediction,
        outcome=outcome,
        status=status,
        method="replay",
    )
    reason = "" if cured else "wider numbers do not cure it"
    return replace(cause, status=status, reason=reason, experiments=(*cause.experiments, experiment))


def _kept(alarm: Alarm, found: Range) -> tuple[bool, str, str]:
    """Whether an underflow's numbers are there in a wider dtype; what was predicted; what happened."""
    data, elements = alarm.data, max(found.elements, 1)
    before, after = 100 * data["zeros"] / max(data["elements"], 1), 100 * found.zeros / elements
    outcome = f"zeros {before:.0f} % → {after:.0f} %, smallest {found.min_abs:.3g}"
    if "constant" in data:
        return not found.zeros, f"in {wider(alarm)} the same operator writes no zero", outcome
    lost = 1 - (elements - found.zeros) / max(data["present"] * found.elements / data["elements"], 1)
    return lost <= UNDERFLOW_SHARE, f"in {wider(alarm)} the same numbers do not vanish at this site", outcome


def widened(trace: Trace, alarm: Alarm) -> Range | str:
    """Replay a trace with every narrower number carried in a wider dtype (`wider`).

    Args:
        trace: a trace that can be replayed.
        alarm: where to look; an underflow is looked at in its first step, everything else in every step.

    Returns:
        The range of what is written there, or why it could not be measured.
    """
    executor = executor_of(trace, lift=Lift(wider(alarm), "lifted"))
    site = replace(alarm.site.at(""), step=0)
    seen: dict[int, list[Range]] = {}

    def look(executor: Executor, call: Call) -> None:
        here = call.kind == "compute" and replace(call.site, step=0) == site
        if here and (alarm.kind != "underflow" or call.site.step == alarm.steps[0]):
            payloads = (executor.payload(executor.written(e)) for e in call.writes if e.fingerprint is not None)
            seen[call.index] = [measure_array(payload.bits, payload.dtype) for payload in payloads]

    failed = next((why for call, why in replay(executor, watch=look).failed if call.index in seen), "")
    if failed:
        return f"the op could not be replayed in {wider(alarm)}: {failed}"
    ranges = [found for at in seen.values() for found in at]
    return functools.reduce(Range.merged, ranges) if ranges else "the replay did not meet the site"


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
