"""What a report lets people look at: every op of both runs, by the plain runs' fingerprints, and pictures of outputs."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import replace

from whydiff.capturing.targets import is_library
from whydiff.explain.case import Case
from whydiff.garbage import not_collecting
from whydiff.judge.outputs import Anchor
from whydiff.numbers.comparison import same
from whydiff.numbers.picture import picture
from whydiff.records import Alignment, Call, Event, OpRow, OpState, Origin, Picture, TensorSpec, Trace

_LINES = 64
"""Places whose lines are looked for."""
_OUTPUTS = 4
"""Outputs of which a picture is taken."""


def taken(returned: Anchor) -> tuple[Picture, ...]:
    """Pictures of the first outputs whose values differ."""
    held = [one for one in returned.having("values") if one.numbers is not None][:_OUTPUTS]
    made = (picture(str(one.slot), *one.numbers) for one in held if one.numbers is not None)
    return tuple(one for one in made if one is not None)


def with_lines(case: Case, origins: Sequence[Origin]) -> tuple[Origin, ...]:
    """Origins with the user's own lines, as they were recorded, or as a live side shows them when it runs once more."""
    found: dict[int, str] = {}
    for side, (trace, run) in enumerate(zip(case.traces, case.runs, strict=True)):
        at = {n: one.calls[side] for n, one in enumerate(origins[:_LINES]) if side == 1 or one.calls[1] < 0}
        calls = {n: trace.calls[index] for n, index in at.items() if index >= 0}
        seen = run.lines([call.site for call in calls.values()]) if run is not None and calls else {}
        for n, call in calls.items():
            line = seen.get(call.site, call.source).partition(" (")[0]
            found[n] = "" if is_library(line) else line
    return tuple(replace(one, line=found.get(n, "")) for n, one in enumerate(origins))


@not_collecting()
def listing(reference: Trace, candidate: Trace, alignment: Alignment, origins: Sequence[Origin]) -> tuple[OpRow, ...]:
    """Paired calls and calls without a counterpart, in the order of execution; views and returns are left out."""
    starts_r, starts_c = ({origin.calls[side] for origin in origins} for side in (0, 1))
    partner = {pair.reference: pair.candidate for pair in alignment.pairs}
    unpaired, lone = frozenset(alignment.unpaired_reference), deque(sorted(alignment.unpaired_candidate))
    rows: list[OpRow] = []
    for ours in reference.calls:
        theirs = candidate.calls[partner[ours.index]] if ours.index in partner else None
        while theirs is not None and lone and lone[0] < theirs.index:
            rows.append(_lone_candidate(candidate.calls[lone.popleft()], starts_c))
        if theirs is not None and ours.kind in ("compute", "module"):
            rows.append(_paired(ours, theirs, ours.index in starts_r))
        elif theirs is None and ours.index in unpaired:
            rows.append(_alone(ours, "starts here" if ours.index in starts_r else "reference only"))
    rows += [_lone_candidate(candidate.calls[index], starts_c) for index in lone]
    return tuple(rows)


def _lone_candidate(call: Call, starts: Collection[int]) -> OpRow:
    return _alone(call, "starts here" if call.index in starts else "candidate only")


def _paired(ours: Call, theirs: Call, starts: bool) -> OpRow:
    state = _state(ours, theirs)
    if starts and state != "agrees":
        state = "starts here"
    return OpRow(
        scope=ours.site.scope,
        op=ours.site.op,
        state=state,
        target=_both(ours.target, theirs.target),
        reads=_specs(ours.reads, theirs.reads),
        writes=_specs(ours.writes, theirs.writes),
        phase=ours.site.phase,
        step=ours.site.step,
        occurrence=ours.site.occurrence,
        source=ours.source or theirs.source,
    )


def _alone(call: Call, state: OpState) -> OpRow:
    return OpRow(
        scope=call.site.scope,
        op=call.site.op,
        state=state,
        target=call.target,
        reads=tuple(_text(event.spec) for event in call.reads),
        writes=tuple(_text(event.spec) for event in call.writes),
        phase=call.site.phase,
        step=call.site.step,
        occurrence=call.site.occurrence,
        source=call.source,
    )


def _state(ours: Call, theirs: Call) -> OpState:
    if len(ours.writes) != len(theirs.writes):
        return "not compared"
    found = {
        None if one.spec.shape != other.spec.shape else same(one, other)
        for one, other in zip(ours.writes, theirs.writes, strict=True)
    }
    return "differs" if False in found else "not compared" if None in found or not found else "agrees"


def _specs(ours: Sequence[Event], theirs: Sequence[Event]) -> tuple[str, ...]:
    one, other = ([_text(event.spec) for event in events] for events in (ours, theirs))
    if len(one) != len(other):
        return (_both(", ".join(one), ", ".join(other)),)
    return tuple(_both(x, y) for x, y in zip(one, other, strict=True))


@functools.lru_cache(maxsize=1 << 16)
def _text(spec: TensorSpec) -> str:
    return str(spec)


def _both(ours: str, theirs: str) -> str:
    return ours if ours == theirs else f"{ours} ↔ {theirs}"
