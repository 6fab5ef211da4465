"""Audit one run, then try the remedy of everything that it found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from whydiff import registry
from whydiff.capturing.adapters import Progress, Run, for_target
from whydiff.errors import WhydiffError
from whydiff.explain.causes import widened, with_experiment
from whydiff.numbers.ranges.audit import Alarm, Audit
from whydiff.records import Cause, Experiment, Status, Trace, Verdict
from whydiff.studies.ranging.report import RangeReport

_REWRITES = frozenset(("scale-first", "finite-mask", "two-pass-variance", "larger-constant"))


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
    run = adapter.run(target, args, kwargs)
    if progress is not None:
        progress("measure ranges", 0, 0)
    audit, _ = run.audit()
    explained = _explained(audit)
    causes = tuple(cause for _, cause in explained)
    if try_remedies and causes:
        causes = _Trials(run, explained).all(progress)
    return RangeReport(*_verdict(audit), audit, causes, adapter.environment())


def _explained(audit: Audit) -> list[tuple[Alarm, Cause]]:
    """Alarms with the cause whose file says that it explains them."""
    late = {alarm.site for alarm in audit.alarms if alarm.kind == "late-scaling"}
    found = []
    for alarm in audit.alarms:
        if alarm.kind == "overflow" and (alarm.site in late or alarm.data.get("of_vanished_numbers")):
            continue  # the cause of the late scaling, or of the underflow, explains it
        for detector in registry.parts("causes").values():
            if alarm.kind in detector.alarms:
                found.append((alarm, detector.from_alarm(alarm)))
    return found


def _verdict(audit: Audit) -> tuple[Verdict, str]:
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


class _Trials:
    """Remedies tried: all rewrites in one rerun (an overflow left upstream would hide the others), one replay."""

    def __init__(self, run: Run, explained: Sequence[tuple[Alarm, Cause]]) -> None:
        self.run, self.explained = run, explained
        self.rewrites = [i for _, cause in explained for i in cause.interventions if i.name in _REWRITES]
        self._rewritten: Audit | None = None
        self._trace: Trace | None = None

    def all(self, progress: Progress | None) -> tuple[Cause, ...]:
        tried = []
        for number, (alarm, cause) in enumerate(self.explained):
            if progress is not None:
                progress("try remedies", number, len(self.explained))
            try:
                tried.append(self._one(alarm, cause))
            except WhydiffError as error:
                tried.append(replace(cause, reason=f"the remedy could not be tried: {error.what}"))
        return tuple(tried)

    def _one(self, alarm: Alarm, cause: Cause) -> Cause:
        names = {item.name for item in cause.interventions}
        if names & _REWRITES:
            if self._rewritten is None:
                self._rewritten, _ = self.run.audit(self.rewrites)
            cause = _judged(alarm, cause, self._rewritten)
        if "widen" in names:
            if self._trace is None:
                self._trace = self.run.capture()
            found = with_experiment(cause, alarm, widened(self._trace, alarm))
            tried = {experiment.status for experiment in found.experiments}
            return replace(found, status="confirmed", reason="") if "confirmed" in tried else found
        return cause if cause.experiments else replace(cause, reason=cause.reason or "no remedy is known to be tried")


def _judged(alarm: Alarm, cause: Cause, after: Audit) -> Cause:
    """The user's program again with every such op rewritten, and what was measured at the site then."""
    again = [a for a in after.alarms if (a.kind, a.site) == (alarm.kind, alarm.site)]
    done, outcome = not again, f"{len(again)} such alarm(s) remain" if again else "the alarm is gone"
    prediction = "the alarm is gone"
    now = next((s.range for s in after.sites if s.site == alarm.site), None)
    if alarm.kind == "late-scaling":
        prediction = "nothing overflows there and the headroom grows"
        stored, finite = float(alarm.data["headroom_stored"]), now is not None and now.finite
        done = finite and now is not None and now.headroom() > stored
        grown = f"headroom {stored:.1f} → {now.headroom():.1f} bits" if now is not None and finite else ""
        outcome += f"; {grown or 'it still overflows'}"
    elif alarm.kind == "one-pass-variance":
        prediction = "the two-pass variance is nearer to float64"
        found = after.rewritten.get(str(alarm.site), {})
        before, left = found.get("error_before"), found.get("error_after")
        done = before is not None and left is not None and left < before
        outcome = "the rewritten variance was not met"
        if before is not None and left is not None:
            outcome = f"error against float64, relative to the largest variance: {before:.2g} → {left:.2g}"
    elif alarm.kind == "underflow":
        prediction = "no zero is left there, and what divides by it is finite"
        poles = [a for a in after.alarms if a.data.get("of_vanished_numbers")]
        done = done and not poles
        outcome += f"; {now.zeros} of {now.elements} are zero" if now is not None else ""
        outcome += f"; {len(poles)} division(s) by vanished numbers remain" if poles else ""
    status: Status = "confirmed" if done else "refuted"
    rewrites = tuple(item for item in cause.interventions if item.name in _REWRITES)
    experiment = Experiment(
        interventions=rewrites, prediction=prediction, outcome=outcome, status=status, method="rerun"
    )
    return replace(cause, status=status, experiments=(*cause.experiments, experiment))
