"""Differences that reach no output: with other values in the rows that differ, no bit of what is returned changes."""

from __future__ import annotations

from collections.abc import Mapping

from whydiff.capturing.adapters import Progress, executor_of
from whydiff.errors import WhydiffError
from whydiff.locate.padding import Padded
from whydiff.locate.resynchronised import Resynchronised
from whydiff.locate.rows import Rows, other_rows, unsigned
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import WHOLE_ROW
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Alignment, Slot, Trace


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
