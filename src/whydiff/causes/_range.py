"""What the overflow causes share: alarms of the candidate's replay, and the replay in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from whydiff.adapters import for_framework
from whydiff.case import Case
from whydiff.ranges import measure_array
from whydiff.ranges.audit import Alarm
from whydiff.records import Cause, Comparison, Evidence, Experiment, Intervention, Lift, Site, Status, Trace

_KEY = "ranges"


def alarms(case: Case, kind: str) -> Iterator[Alarm]:
    """Alarms of one kind that the candidate's run raises and the reference's does not.

    Both runs are audited (by replay, once per case) only if somewhere a number is finite on one side alone.
    """
    local = case.localization
    seen = (
        *(o.comparison for o in local.origins),
        *(c for _, c in local.outputs),
        *(g.comparison for g in local.growth),
    )
    if not any(_parts(comparison) for comparison in seen):
        return
    known = case.shared(_KEY, lambda: tuple(_audit(trace) for trace in (case.reference, case.candidate)))
    reference = {(alarm.kind, case.rename(str(alarm.site))) for alarm in known[0]}
    yield from (alarm for alarm in known[1] if alarm.kind == kind and (kind, str(alarm.site)) not in reference)


def _parts(comparison: Comparison) -> bool:
    return any(comparison.value(metric) for metric in ("inf_mismatch", "nan_mismatch"))


def _audit(trace: Trace) -> tuple[Alarm, ...]:
    adapter: Any = for_framework(trace.framework)
    return adapter.audit(trace).alarms if hasattr(adapter, "audit") else ()


def measured(alarm: Alarm, sentence: str) -> tuple[Evidence, ...]:
    """The alarm's numbers as evidence."""
    times = "" if alarm.count == 1 else f", in {alarm.count} calls (steps {alarm.steps[0]} to {alarm.steps[1]})"
    return (Evidence(sentence + times, dict(alarm.data)),)


def widen(site: Site) -> Intervention:
    """Carry every narrower number in float32; done by a lifted replay."""
    return Intervention("widen", str(site), "float32")


def proven(case: Case, cause: Cause, site: Site) -> Cause:
    """A cause with its experiment: the candidate's recorded ops again in float32 (see `in_float32`)."""
    return with_experiment(cause, in_float32(case.candidate, site))


def with_experiment(cause: Cause, found: tuple[float, bool, str]) -> Cause:
    """Confirmed if the site's numbers are finite in float32."""
    largest, finite, failed = found
    if failed:
        return replace(cause, reason=failed)
    outcome = f"finite, largest {largest:.4g}" if finite else f"still not finite (largest finite {largest:.4g})"
    status: Status = "confirmed" if finite else "refuted"
    experiment = Experiment(
        cause.interventions, "in float32 the same numbers are finite at this site", outcome, status, "replay"
    )
    reason = "" if finite else "wider numbers do not cure it"
    return replace(cause, status=status, reason=reason, experiments=(experiment,))


def in_float32(trace: Trace, site: Site) -> tuple[float, bool, str]:
    """Replay a trace with every narrower number carried in float32.

    Args:
        trace: a trace that can be replayed.
        site: where to look; its step is not compared.

    Returns:
        Largest finite magnitude written there, whether all is finite, and why it could not be done (or empty).
    """
    executor = for_framework(trace.framework).executor(trace, lift=Lift("float32", "lifted"))
    largest, finite, seen = 0.0, True, False
    with executor.running():
        for call in trace.calls:
            failed = executor.execute(call)
            if call.kind == "compute" and replace(call.site, step=0) == replace(site.at(""), step=0):
                if failed:
                    return 0.0, False, f"the op could not be replayed in float32: {failed}"
                for event in call.writes:
                    if event.fingerprint is not None:
                        payload = executor.payload(executor.written(event))
                        found = measure_array(payload.bits, payload.dtype)
                        largest, finite, seen = max(largest, found.max_abs), finite and found.finite, True
            executor.release(call)
    return largest, finite, "" if seen else "the replay did not meet the site"
