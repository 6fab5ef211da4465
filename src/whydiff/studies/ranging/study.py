"""Audit one run, then try the remedy of everything that it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from whydiff import registry
from whydiff.adapters import Progress, for_target
from whydiff.causes._range import in_float32, with_experiment
from whydiff.errors import UsageError, WhydiffError
from whydiff.ranges.audit import Alarm, Audit
from whydiff.records import Cause, Experiment, Intervention, Trace, Verdict
from whydiff.studies.ranging.records import RangeReport


def range_audit(
    target: Any, *args: Any, try_remedies: bool = True, progress: Progress | None = None, **kwargs: Any
) -> RangeReport:
    """Find where a program's numbers overflow, vanish or cancel, forward and backward, and how much room is left.

    One pass, statistics only: no tensor is kept. Where something is found its remedy is tried by a rerun or
    a replay.

    Args:
        target: a module or callable, called with ``*args, **kwargs`` (each run gets its own copies).
        try_remedies: rerun with every remedy that is known for what was found.
        progress: called with (stage, done, total).

    Returns:
        A `RangeReport`: per site the magnitudes and the headroom in bits, the alarms, causes with tried remedies.

    Raises:
        whydiff.errors.TargetError: the target raised while it ran.
        whydiff.errors.UsageError: the framework has no range recorder.
    """
    adapter = for_target(target, args)
    run: Any = adapter.run(target, args, kwargs)
    if not hasattr(run, "audit"):
        raise UsageError("This framework has no range recorder yet.", actual=adapter.name, expected="torch")
    if progress is not None:
        progress("measure ranges", 0, 0)
    audit, _ = run.audit()
    explained = _explained(audit)
    causes = tuple(cause for _, cause in explained)
    if try_remedies and causes:
        causes = _try_all(run, audit, explained, progress)
    return RangeReport(*_verdict(audit, causes), audit, causes, adapter.environment())


def _explained(audit: Audit) -> list[tuple[Alarm, Cause]]:
    """Alarms with the cause whose file says that it explains them; an overflow that is late scaling is that."""
    late = {alarm.site for alarm in audit.alarms if alarm.kind == "late-scaling"}
    found = []
    for alarm in audit.alarms:
        if alarm.kind == "overflow" and alarm.site in late:
            continue
        for detector in registry.parts("causes").values():
            if alarm.kind in getattr(detector, "alarms", ()):
                found.append((alarm, detector.from_alarm(alarm)))
    return found


def _verdict(audit: Audit, causes: Sequence[Cause]) -> tuple[Verdict, str]:
    sites = len(audit.sites)
    if not audit.alarms:
        tightest = min(audit.sites, key=lambda site: site.range.headroom(), default=None)
        if tightest is None:
            return Verdict.INCOMPARABLE, "the run wrote no floating-point number"
        room = f"{tightest.range.headroom():.1f} bits at {tightest.site} ({tightest.range.dtype})"
        return Verdict.IDENTICAL, f"no alarm at {sites} sites; the least headroom is {room}"
    first = audit.alarms[0]
    kinds = ", ".join(dict.fromkeys(alarm.kind for alarm in audit.alarms))
    return Verdict.UNSTABLE, f"{kinds} at {len(audit.alarms)} of {sites} sites, first at {first.site}"


def _try_all(
    run: Any, audit: Audit, explained: Sequence[tuple[Alarm, Cause]], progress: Progress | None
) -> tuple[Cause, ...]:
    trace: list[Trace] = []

    def captured() -> Trace:
        if not trace:
            trace.append(run.capture())
        return trace[0]

    tried = []
    for number, (alarm, cause) in enumerate(explained):
        if progress is not None:
            progress("try remedies", number, len(explained))
        try:
            tried.append(_try(run, audit, alarm, cause, captured))
        except WhydiffError as error:
            tried.append(replace(cause, reason=f"the remedy could not be tried: {error.what}"))
    return tuple(tried)


def _try(run: Any, audit: Audit, alarm: Alarm, cause: Cause, captured: Callable[[], Trace]) -> Cause:
    rewrites = [item for item in cause.interventions if item.name in ("scale-first", "finite-mask")]
    if rewrites:
        return _rerun(run, audit, alarm, cause, rewrites)
    if any(item.name == "widen" for item in cause.interventions):
        return with_experiment(cause, in_float32(captured(), alarm.site))
    return replace(cause, reason=cause.reason or "no remedy is known that can be tried")


def _rerun(run: Any, audit: Audit, alarm: Alarm, cause: Cause, rewrites: list[Intervention]) -> Cause:
    """The user's program again with the op rewritten: the alarm must be gone."""
    after, _ = run.audit(rewrites)
    again = [a for a in after.alarms if (a.kind, a.site) == (alarm.kind, alarm.site)]
    overflows = sum(a.kind in ("overflow", "masked-row") for a in after.alarms)
    before_site = next(site for site in audit.sites if site.site == alarm.site)
    after_site = next((site for site in after.sites if site.site == alarm.site), None)
    gained = after_site.range.headroom() - before_site.range.headroom() if after_site is not None else 0.0
    gone = not again and overflows <= sum(a.kind in ("overflow", "masked-row") for a in audit.alarms)
    outcome = "the alarm is gone" if gone else f"{len(again)} such alarm(s) remain"
    if alarm.kind == "late-scaling":
        outcome += f"; headroom {before_site.range.headroom():.1f} → {before_site.range.headroom() + gained:.1f} bits"
    status: Any = "confirmed" if gone else "refuted"
    experiment = Experiment(tuple(rewrites), "the alarm is gone", outcome, status, "rerun")
    return replace(cause, status=status, experiments=(experiment,))
