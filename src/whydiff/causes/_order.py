"""Origins in one more resynchronised walk, where both sides' inputs are at hand: for causes about order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from whydiff.adapters import for_framework
from whydiff.case import Case, replayable
from whydiff.localize import find_origins
from whydiff.lockstep import Lockstep
from whydiff.records import Call

SAME_INPUTS = ("implementation", "arguments", "layout")
"""Kinds of origin whose inputs hold the same values."""

Visit = Callable[[Lockstep, Call, Call], None]


def visit_origins(case: Case, wanted: Callable[[Call, Call], bool], visit: Visit) -> None:
    """Walk both programs again and call ``visit`` at wanted origins, while everything they read is there.

    Does nothing (and costs nothing) if no origin is wanted or a side cannot be replayed.
    """
    sites = {
        origin.calls for origin in case.localization.origins
        if origin.kind in SAME_INPUTS and min(origin.calls) >= 0
        and wanted(case.reference.calls[origin.calls[0]], case.candidate.calls[origin.calls[1]])
    }  # fmt: skip
    if not sites or replayable(case.reference) or replayable(case.candidate):
        return

    def on_origin(step: Lockstep, call_r: Call, call_c: Call, look: Any) -> None:
        if (call_r.index, call_c.index) in sites:
            visit(step, call_r, call_c)

    executors = [for_framework(trace.framework).executor(trace) for trace in (case.reference, case.candidate)]
    find_origins(executors[0], executors[1], case.alignment, axes=case.localization.axes, on_origin=on_origin)


def flags(case: Case, call_r: Call, call_c: Call) -> dict[str, tuple[Any, Any]]:
    """Flags in force that differ between two calls: name → (reference's, candidate's)."""
    both: list[Mapping[str, Any]] = [
        trace.contexts[call.context] if call.context < len(trace.contexts) else {}
        for trace, call in ((case.reference, call_r), (case.candidate, call_c))
    ]
    names = [*both[0], *(name for name in both[1] if name not in both[0])]
    return {n: (both[0].get(n), both[1].get(n)) for n in names if both[0].get(n) != both[1].get(n)}
