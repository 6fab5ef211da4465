"""The other direction of the causes of range: the reference, carried in the candidate's dtypes, does the same there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Change, Executor, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.numbers.ranges import Range, measure_array
from whydiff.numbers.ranges.audit import Alarm
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.replay import replay
from whydiff.records import Call, Cause, Direction, Experiment, Intervention, Payload, Status, Trace

Array = np.ndarray[Any, Any]


def both_ways(case: Case, cause: Cause, alarm: Alarm) -> Cause:
    """A cause that wider numbers cure, once its dtype was put into the reference too.

    Confirmed only if the reference, whose numbers are wider there, then does what the candidate does; in one dtype on
    both sides something else makes the numbers too large or too small, and the cause only says where.
    """
    if cause.status != "confirmed":
        return cause
    found = _in_candidates_dtypes(case, alarm)
    if isinstance(found, str):
        why = f"wider numbers cure it, which shows where it starts; {found}"
        return replace(cause, status="located", reason=why)
    read, written = found
    there, prediction = _same_there(alarm, read, written)
    outcome = (
        f"{written.infs} inf, {written.nans} NaN and {written.zeros} zeros of {written.elements} are written; "
        f"{read.infs} inf and {read.nans} NaN are read"
    )
    status: Status = "confirmed" if there else "refuted"
    experiment = Experiment(
        interventions=(Intervention("set-dtype", str(alarm.site), alarm.dtype),),
        prediction=prediction,
        outcome=outcome,
        status=status,
        method="replay",
        direction="put_in",
    )
    cause = replace(cause, experiments=(*cause.experiments, experiment))
    if there:
        return cause
    why = "wider numbers cure it, but the reference in the same dtypes does not do it: something else is needed too"
    return replace(cause, status="located", reason=why)


def _same_there(alarm: Alarm, read: Range, written: Range) -> tuple[bool, str]:
    """Whether the reference does the same; what was predicted."""
    if alarm.kind == "underflow":
        zeros = alarm.data["zeros"] / max(alarm.data["elements"], 1)
        return written.zeros / max(written.elements, 1) >= zeros, "the reference's numbers vanish there too"
    if alarm.kind == "hidden":
        return (
            not read.finite and written.finite,
            "the reference's numbers are not finite before this site, and after it",
        )
    return not written.finite, "the reference's numbers are not finite there either"


def _in_candidates_dtypes(case: Case, alarm: Alarm) -> tuple[Range, Range] | str:
    """What the reference's counterpart reads and writes in the candidate's dtypes; or why that cannot be said."""
    changes = case.shared("narrowed", lambda: _narrowed(case))
    at = set(pairs_at(case, alarm).values())
    adapter = for_framework(case.reference.framework)
    if not at:
        return "the reference has no counterpart of this op, into which it could be put"
    if not changes:
        return "both runs compute in the same dtypes, so that these alone are not why"
    if not adapter.changes_calls:
        return "putting it into the reference was not tried: its calls cannot be carried out in another dtype"
    seen: tuple[list[Range], list[Range]] = ([], [])

    def look(executor: Executor, call: Call, side: int) -> None:
        if call.index in at:
            events = call.writes if side else call.reads
            payloads = (executor.payload(executor.read(e)) for e in events if e.storage >= 0)
            seen[side].extend(measure_array(p.bits, p.dtype) for p in payloads if p.dtype in UNIT_ROUNDOFF)

    try:
        executor = adapter.executor(case.reference, changes=changes)
        replay(executor, before=lambda e, c: look(e, c, 0), watch=lambda e, c: look(e, c, 1))
    except WhydiffError as error:
        return f"putting it into the reference failed: {error.what}"
    if not all(seen):
        return "putting it into the reference failed: nothing was computed there"
    read, written = (functools.reduce(Range.merged, ranges) for ranges in seen)
    return read, written


def _narrowed(case: Case) -> Mapping[int, Change]:
    """The reference's calls whose counterparts compute in another floating dtype → that dtype."""
    found = {}
    for ours, theirs in case.paired():
        dtypes = [next((e.spec.dtype for e in c.writes if e.spec.dtype in UNIT_ROUNDOFF), "") for c in (ours, theirs)]
        if ours.kind == "compute" and all(dtypes) and dtypes[0] != dtypes[1]:
            found[ours.index] = Change(dtype=dtypes[1])
    return found


Reads = Callable[[int, int, Array], Array | None]
"""(call, position, what is read) → what is read instead; None: the same. Only of dtypes that numpy has."""


def by_reads(case: Case, cause: Cause, alarm: Alarm, *, away: Reads, put: Reads, words: tuple[str, str]) -> Cause:
    """A cause whose op is carried out alone on other inputs: the candidate's without it, the reference's with it.

    Args:
        case: the pair of runs.
        cause: without experiments.
        alarm: that it stands for.
        away: (the candidate's call, position, value) → the value without the cause.
        put: (the reference's call, position, value) → the value with it.
        words: what was changed, in the candidate and in the reference.
    """
    pairs = pairs_at(case, alarm)
    if not pairs:
        return replace(cause, reason="the reference has no counterpart of this op, into which it could be put")
    try:
        theirs = _not_finite(case.candidate, pairs, away)  # first: what it finds may be what is put in
        ours = _not_finite(case.reference, set(pairs.values()), put)
    except WhydiffError as error:
        return replace(cause, reason=f"the experiment failed: {error.what}")
    cured, caused = theirs[0] > theirs[1] == 0, ours[0] == 0 < ours[1]
    sides: tuple[tuple[Direction, str, bool, list[int], str], ...] = (
        ("take_away", words[0], cured, theirs, "every number that is written is finite"),
        ("put_in", words[1], caused, ours, "numbers that are not finite are written"),
    )
    experiments = tuple(
        Experiment(
            interventions=cause.interventions,
            prediction=f"{how}, {prediction}",
            outcome=f"{counts[1]} numbers are not finite, {counts[0]} before",
            status="confirmed" if holds else "refuted",
            method="replay",
            direction=direction,
        )
        for direction, how, holds, counts, prediction in sides
    )
    cause = replace(cause, experiments=(*cause.experiments, *experiments))
    if not cured:
        return replace(cause, status="refuted", reason=f"{words[0]}, the numbers are not finite either")
    if not caused:
        why = f"it is cured {words[0]}, but the reference does not do it {words[1]}: something else is needed too"
        return replace(cause, status="located", reason=why)
    return replace(cause, status="confirmed", reason="")


def pairs_at(case: Case, alarm: Alarm) -> dict[int, int]:
    """The candidate's calls at an alarm's site → their counterparts."""
    site = replace(alarm.site.at(""), step=0)
    return {theirs.index: ours.index for ours, theirs in case.paired() if replace(theirs.site, step=0) == site}


def _not_finite(trace: Trace, at: Collection[int], other: Reads) -> list[int]:
    """How many numbers that calls write, carried out alone, are not finite: [as they are, on other reads]."""
    counted = [0, 0]

    def before(executor: Executor, call: Call) -> None:
        if call.index not in at:
            return
        reads = [executor.read(event) for event in call.reads]
        changed = [_changed(executor, value, functools.partial(other, call.index, i)) for i, value in enumerate(reads)]
        for number, given in enumerate((reads, changed)):
            for output in executor.apply(call, [executor.copy(value) for value in given]):
                bits = executor.payload(output).bits
                counted[number] += int(np.count_nonzero(~np.isfinite(bits))) if bits.dtype.kind == "f" else 0

    replay(executor_of(trace), before=before)
    return counted


def _changed(executor: Executor, value: Any, other: Callable[[Array], Array | None]) -> Any:
    payload = executor.payload(value)
    given = other(np.array(payload.bits)) if payload.bits.dtype.kind == "f" else None
    if given is None:
        return value
    return executor.adopt_foreign(Payload(given.astype(payload.bits.dtype), payload.dtype))
