"""Origins in one more resynchronised walk, where both sides' inputs are at hand: for causes about order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from whydiff.capturing.adapters import Executor, Value, executor_of
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import explained_calls
from whydiff.explain.causes._settings import enough
from whydiff.locate.origins import walk_origins
from whydiff.locate.resynchronised import Watcher
from whydiff.pair.lockstep import Lockstep
from whydiff.pair.replay import replay
from whydiff.records import Call, Trace

SAME_INPUTS = ("implementation", "arguments", "layout")
"""Kinds of origin whose inputs hold the same values."""

Recorded = tuple[Executor, Call, Sequence[Value]]
Visit = Callable[[Lockstep, Call, Call], None]


def visit_origins(
    case: Case, wanted: Callable[[Call, Call], bool], visit: Visit, seen: Callable[[], bool] = lambda: False
) -> list[tuple[Call, Call]]:
    """Walk both programs again and call ``visit`` at wanted origins, while everything they read is there.

    Does nothing (and costs nothing) if no origin is wanted or a side cannot be replayed. Origins that a cause
    explains from the values are left out, and all if setting back what differs in settings and tensors is enough.

    Args:
        case: the pair of runs.
        wanted: whether to visit an origin of these two calls.
        visit: told of each.
        seen: whether enough is seen: then the walk ends.

    Returns:
        The wanted calls to which it then did not come.
    """
    if enough(case):
        return []
    named = explained_calls(case)
    sites = {
        origin.calls
        for origin in case.localization.origins
        if origin.kind in SAME_INPUTS
        and min(origin.calls) >= 0
        and origin.calls not in named
        and wanted(*case.calls_at(origin.calls))
    }
    if not sites or not case.replayable:
        return []

    def on_origin(step: Lockstep, call_r: Call, call_c: Call, look: Any) -> None:
        if (call_r.index, call_c.index) in sites:
            visit(step, call_r, call_c)
            watcher.done = seen()
            left.discard((call_r.index, call_c.index))

    watcher, left = Watcher(), set(sites)
    executors = [executor_of(trace) for trace in case.traces]
    step = Lockstep(executors[0], executors[1], case.alignment, case.localization.axes)
    walk_origins(step, on_origin=on_origin, watcher=watcher, measured=False)
    return [(case.reference.calls[r], case.candidate.calls[c]) for r, c in sorted(left)] if watcher.done else []


def single_regions(case: Case) -> Iterator[tuple[str, Recorded, Recorded]]:
    """Regions of one op on either side: (site, reference's and candidate's executor, call and reads).

    Each program is executed plainly up to its op; where an earlier difference reaches it, the reads differ.
    """
    unpaired = set(case.alignment.unpaired_reference), set(case.alignment.unpaired_candidate)
    if not case.replayable:
        return
    for origin in case.localization.origins:
        ours, theirs = origin.calls
        if origin.kind == "region" and len(origin.region) == 2 and ours in unpaired[0] and theirs in unpaired[1]:
            sides = tuple(
                _reads_at(trace, index) for trace, index in ((case.reference, ours), (case.candidate, theirs))
            )
            if sides[0] is not None and sides[1] is not None:
                yield str(origin.site), sides[0], sides[1]


def _reads_at(trace: Trace, index: int) -> Recorded | None:
    executor = executor_of(trace)
    found: list[Recorded] = []

    def look(executor: Executor, call: Call) -> None:
        if call.index == index:
            found.append((executor, call, [executor.read(event) for event in call.reads]))

    try:
        replay(executor, before=look, until=index)
    except WhydiffError:  # a call before it could not be executed: nothing to look at
        return None
    return found[0]


def flags(case: Case, call_r: Call, call_c: Call) -> dict[str, tuple[Any, Any]]:
    """Flags in force that differ between two calls: name → (reference's, candidate's)."""
    both: list[Mapping[str, Any]] = [
        trace.contexts[call.context] if call.context < len(trace.contexts) else {}
        for trace, call in ((case.reference, call_r), (case.candidate, call_c))
    ]
    names = [*both[0], *(name for name in both[1] if name not in both[0])]
    return {n: (both[0].get(n), both[1].get(n)) for n in names if both[0].get(n) != both[1].get(n)}
