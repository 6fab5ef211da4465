"""Where two programs differ: from fingerprints if they settle it, else by executing both again, twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Progress, executor_of, replayable
from whydiff.errors import PayloadError, ReplayError, WhydiffError, attempted
from whydiff.locate.by_fingerprint import agrees, from_fingerprints
from whydiff.locate.growth import measure_growth
from whydiff.locate.localization import Localization
from whydiff.locate.origins import find_origins
from whydiff.locate.padding import ON_DISK, Padded, Runs, leave_out
from whydiff.locate.resynchronised import Resynchronised
from whydiff.locate.rows import Rows, other_rows, unsigned
from whydiff.numbers.comparison import compare_payloads, same
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.picture import picture
from whydiff.numbers.tolerance import WHOLE_ROW
from whydiff.pair.axes import axes_of
from whydiff.pair.lockstep import Lockstep, Look, payloads_of
from whydiff.records import Alignment, Call, Picture, Slot, Trace

MOST = 8
"""Places of which a picture is taken."""


def localize(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    progress: Progress | None,
    rows: Any = None,
    runs: Runs = ON_DISK,
) -> tuple[Localization, tuple[str, ...]]:
    """Where: from fingerprints if they settle it, else by replaying both programs twice (plain, resynchronised)."""
    recorded = from_fingerprints(reference, candidate, alignment, same)
    if agrees(recorded, alignment, decided=not (replayable(reference) or replayable(candidate))):
        return recorded, ()
    why_not = [
        f"the {name} cannot be replayed: {why}"
        for name, why in (("reference", replayable(reference)), ("candidate", replayable(candidate)))
        if why
    ]
    if why_not:
        if rows is not None:
            why_not.append("so its rows cannot be left out: every row is compared")
        return recorded, (*why_not, "origins are read off the fingerprints; later ones may hide behind earlier ones")
    axes = axes_of(reference, candidate, alignment)
    if axes is None:
        return replace(recorded, origins=(), unplaced=True), ()
    plain = measure_growth(executor_of(reference), executor_of(candidate), alignment, progress, axes=axes)
    pictures, again = Pictures(), (executor_of(reference), executor_of(candidate))
    resynchronised = find_origins(*again, alignment, progress, axes=axes, on_origin=pictures)
    if recorded.origins and not resynchronised.origins and plain.unfaithful:
        why = "replayed on this machine, calls give other bits than were recorded: origins are as recorded"
        return recorded, (why,)
    padded = leave_out(reference, candidate, plain, rows, progress, runs)
    found = Localization(
        origins=resynchronised.origins,
        growth=plain.growth,
        outputs=padded.outputs,
        returned=padded.returned,
        accounted=resynchronised.accounted,
        agreeing=plain.agreeing,
        propagated=max(0, plain.differing - len(resynchronised.origins)),
        counts=(*dict.fromkeys((*plain.counts, *resynchronised.counts)), *padded.counts),
        axes=axes,
        rows=padded.rows,
        silent=without_influence(reference, candidate, alignment, resynchronised, padded, progress),
        pictures=tuple(pictures.taken),
    )
    return found, (*(f"not compared: {text}" for text in plain.left_out), *padded.notes)


class Pictures:
    """Takes a picture of every origin that a walk reports, until there are enough."""

    def __init__(self) -> None:
        self.taken: list[Picture] = []

    def __call__(self, step: Lockstep, reference: Call, candidate: Call, look: Look) -> None:
        """One origin."""
        if len(self.taken) == MOST or look.map is not None:
            return
        try:
            both = payloads_of(step, look)
        except (PayloadError, ReplayError):
            return  # nothing to look at: the origin itself is reported all the same
        found = attempted("the picture of a place", lambda: picture(str(look.reference.site), *both), None)
        if found is not None:
            self.taken.append(found)


def without_influence(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    found: Resynchronised,
    outputs: Padded,
    progress: Progress | None = None,
) -> str:
    """Why origins do not matter although they differ, as a sentence; empty if they may.

    Asked only where every output is a floating tensor and what is compared of it agrees bit for bit. In the first
    floating tensors that differ, whole rows must differ; other values are put there, and no bit of the outputs may
    change.
    """
    floats = all(not is_integer(ours.dtype) for _, ours, _ in outputs.returned)
    kinds = {origin.kind for origin in found.origins}
    if not found.origins or not outputs.returned or not floats or kinds & {"state", "implementation"}:
        return ""
    if any(comparison.status != "agrees" for _, comparison in outputs.outputs):
        return ""
    try:
        ours, theirs = (executor_of(trace) for trace in (reference, candidate))
        step = Lockstep(ours, theirs, alignment, found.axes)
        return _silent(step, outputs.rows, progress)
    except WhydiffError:
        return ""  # it cannot be told: the origins stand


def _returned_alike(step: Lockstep, look: Look, slot: Slot, rows: Mapping[Slot, Rows]) -> bool:
    if look.agrees is not False or slot not in rows:
        return look.agrees is True
    one = rows[slot]
    payloads = step.reference.payload(look.reference_value), step.candidate.payload(look.candidate_value)
    return compare_payloads(*(one.of(payload) for payload in payloads)).status == "agrees"


def _silent(step: Lockstep, rows_of: Mapping[Slot, Rows], progress: Progress | None) -> str:
    executors = step.reference, step.candidate
    changed: list[str] = []
    for call_r, call_c in step.walk(progress, "put other values where they differ"):
        reads = [look for look in step.looks(call_r, call_c, "reads") if not is_integer(look.reference.spec.dtype)]
        if call_r.kind == "return":
            if not all(_returned_alike(step, look, step.slot(call_r, look.reference), rows_of) for look in reads):
                return ""
            continue
        step.execute(call_r, call_c)
        if any(look.agrees is False for look in reads):
            continue
        for look in step.looks(call_r, call_c, "writes"):
            if look.agrees is not False or is_integer(look.reference.spec.dtype) or look.map is not None:
                continue
            ours, theirs = executors[0].payload(look.reference_value), executors[1].payload(look.candidate_value)
            if ours.bits.shape != theirs.bits.shape or ours.bits.ndim < 2:
                return ""
            unequal = unsigned(ours.bits) != unsigned(theirs.bits)
            rows = unequal.reshape(*ours.bits.shape[:-1], -1).any(axis=-1)
            whole = unequal.reshape(*ours.bits.shape[:-1], -1)[rows].mean()
            if rows.all() or whole < WHOLE_ROW:  # single numbers, not rows
                return ""
            other = executors[1].adopt_foreign(other_rows(theirs, ~rows))
            if not executors[1].overwrite(look.candidate, other):
                return ""
            site = str(look.reference.site.at("")).removeprefix(":")
            changed.append(f"{int(rows.sum())} of {rows.size} rows of {site}")
    if not changed:
        return ""
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more} differ and reach no output: with other values in them no bit of the outputs changes"
