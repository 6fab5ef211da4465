"""What the causes of range share: alarms of the candidate's replay, and the replay in a wider dtype."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from whydiff.capturing.adapters import Executor, executor_of, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import out_of_range
from whydiff.explain.causes._overflow import overflows
from whydiff.explain.causes._range_put import both_ways
from whydiff.explain.causes._rule import CauseRule
from whydiff.numbers.ranges import Range, limits, measure_array
from whydiff.numbers.ranges.audit import Alarm
from whydiff.numbers.tolerance import UNDERFLOW_SHARE
from whydiff.pair.replay import replay
from whydiff.records import Call, Cause, Evidence, Experiment, Intervention, Lift, Remedy, Status, Trace, Verdict

_KEY = "ranges"


def alarms(case: Case, kind: str) -> Iterator[Alarm]:
    """Alarms of one kind that the candidate's run raises and the reference's does not.

    Both runs are audited (by replay, once per case) only if somewhere a number is finite on one side alone.
    """
    if not out_of_range(case):
        return
    known = case.shared(_KEY, lambda: tuple(_audit(trace) for trace in case.traces))
    reference = {(alarm.kind, case.rename(str(alarm.site))) for alarm in known[0]}
    yield from (alarm for alarm in known[1] if alarm.kind == kind and (kind, str(alarm.site)) not in reference)


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
