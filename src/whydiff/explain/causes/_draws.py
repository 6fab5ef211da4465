"""Draws of random numbers that both sides make, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._view import Finding
from whydiff.explain.draws import DRAW_AS, NUMBERS_OF, draws_alike, moved_axes, of_one_size
from whydiff.explain.keys import keys, only_for_keys, takes_a_key
from whydiff.explain.sides import SIDES
from whydiff.records import Call, Evidence, Intervention, Origin, Trace, Verdict

_LONGEST = 64
"""Draws among which counterparts are sought."""
_WHAT = {
    "state": "from other states of the generator",
    "size": "at other sizes",
    "layout": "for axes in another order",
    "dtype": "in other dtypes",
    "device": "on other devices",
}


def drawn_otherwise(case: Case, code: str, pairs: Sequence[tuple[Call, Call]]) -> Finding | None:
    """Pairs of draws from one distribution, and all in which they differ; None if nothing does or one is not alike."""
    what: dict[str, Any] = {}
    steps = []
    for ours, theirs in pairs:
        if not draws_alike(ours, theirs):
            return None
        found = _differences(case, ours, theirs)
        what |= {key: value for key, value in found.items() if key not in what}
        if found:
            steps.append(Intervention(DRAW_AS, str(theirs.site), str(ours.site)))
    if not what:
        return None
    text = " and ".join(_WHAT[name] for name in what)
    shown = "; ".join(f"{value[0]} in the reference, {value[1]} in the candidate" for value in what.values() if value)
    evidence = Evidence(
        f"both sides draw at {pairs[0][0].site}, {text}" + (f" ({shown})" if shown else ""),
        {"reference": str(pairs[0][0].site), "candidate": str(pairs[0][1].site), "differs": list(what)},
    )
    says = f"both sides draw random numbers {text}"
    return Finding(code, tuple(what), Verdict.SEMANTIC, (evidence,), tuple(steps), {"what": tuple(what)}, says=says)


def drawn_in_another_order(case: Case, code: str, pairs: Sequence[tuple[Call, Call]]) -> Finding | None:
    """Pairs of draws of which each draws what another one of the other side draws; None if not all do."""
    known = case.shared("draws in another order", lambda: _in_another_order(case))
    counterparts = [known.get(theirs.index) for _, theirs in pairs]
    found = [case.reference.calls[at] for at in counterparts if at is not None]
    if not found or len(found) < len(pairs):
        return None
    steps = tuple(
        Intervention(DRAW_AS, str(theirs.site), str(one.site)) for (_, theirs), one in zip(pairs, found, strict=True)
    )
    shown = pairs[0][1].site, next(event.spec for event in found[0].writes if not event.is_look)
    evidence = Evidence(
        f"from the same state of the generator both sides draw the same sizes, in another order: what {shown[0]} draws in the "
        f"candidate, {shown[1]}, is drawn by {found[0].site} in the reference",
        {"candidate": [str(theirs.site) for _, theirs in pairs], "reference": [str(one.site) for one in found]},
    )
    says = "both sides draw the same random numbers, in another order"
    return Finding(code, "order", Verdict.SEMANTIC, (evidence,), steps, {"what": ("order",)}, says=says)


def _in_another_order(case: Case) -> dict[int, int]:
    """Index of a candidate's draw → the reference's that draws the same, where that is not the one at its turn.

    A stretch begins where both draw from one state and not the same, and ends when both have drawn the same things.
    """
    sides = [[call for call in trace.calls if call.rng] for trace in case.traces]
    if len(sides[0]) != len(sides[1]):
        return {}
    found: dict[int, int] = {}
    stretch: list[tuple[Call, Call]] = []
    for ours, theirs in zip(*sides, strict=True):
        if not stretch and (_drawn(ours) == _drawn(theirs) or not _from_one_state(case, ours, theirs)):
            continue
        stretch.append((ours, theirs))
        wanted = [[_drawn(pair[side]) for pair in stretch] for side in (0, 1)]
        if sorted(wanted[0]) == sorted(wanted[1]):
            left = [ours for ours, _ in stretch]
            for _, other in stretch:
                one = next(call for call in left if _drawn(call) == _drawn(other))
                left.remove(one)
                found[other.index] = one.index
            stretch = []
        elif len(stretch) >= _LONGEST:
            return found
    return found


def _drawn(call: Call) -> str:
    """What a draw draws, whatever from."""
    spec = next(event.spec for event in call.writes if not event.is_look)
    return repr((call.target, call.arguments, spec.shape, spec.dtype, spec.device))


def _differences(case: Case, ours: Call, theirs: Call) -> dict[str, tuple[str, str] | None]:
    """What of two draws differs that decides which numbers come out."""
    one, other = (next(event.spec for event in call.writes if not event.is_look) for call in (ours, theirs))
    states = _state(case.reference, ours), _state(case.candidate, theirs)
    found: dict[str, tuple[str, str] | None] = {}
    if one.shape != other.shape:
        name = "layout" if moved_axes(one.shape, other.shape) else "size"
        found[name] = str(list(one.shape)), str(list(other.shape))
    if one.dtype != other.dtype:
        found["dtype"] = one.dtype, other.dtype
    if one.device.partition(":")[0] != other.device.partition(":")[0]:
        found["device"] = one.device, other.device
    elif None not in states and states[0] != states[1]:
        found["state"] = None
    return found


def from_the_same_key(origin: Origin, code: str, ours: Call, theirs: Call) -> Finding | None:
    """The finding that one op makes other numbers of one key (an origin's inputs agree); None: it was asked for others."""
    if origin.kind != "implementation" or not of_one_size(theirs, ours):
        return None
    evidence = Evidence(
        f"both sides draw at {ours.site} from the same key, at one size and in one dtype, and other numbers come out: "
        "the generator itself is another one (a setting or a version)",
        {"reference": str(ours.site), "candidate": str(theirs.site), "differs": ["generator"]},
    )
    step = Intervention(NUMBERS_OF, str(theirs.site), str(ours.site))
    says = "one key gives other random numbers: the generator is another one"
    return Finding(code, ("generator",), Verdict.SEMANTIC, (evidence,), (step,), {"what": ("generator",)}, says=says)


def other_keys(case: Case) -> tuple[Intervention, ...]:
    """Every draw of the candidate that takes another key than its counterpart does, drawing from the counterpart's."""
    return case.shared("other keys", lambda: _other_keys(case))


def _other_keys(case: Case) -> tuple[Intervention, ...]:
    pairs = [
        (ours, theirs)
        for ours, theirs in case.paired()
        if takes_a_key(case.reference, ours) and takes_a_key(case.candidate, theirs) and draws_alike(ours, theirs)
    ]
    if not pairs or not case.replayable:
        return ()
    executors = [case.experiments.executor(side) for side in SIDES]
    taken = [keys(executor, calls) for executor, calls in zip(executors, zip(*pairs, strict=True), strict=True)]
    return tuple(
        Intervention(DRAW_AS, str(theirs.site), str(ours.site))
        for ours, theirs in pairs
        if not executors[0].same(taken[0][ours.index], taken[1][theirs.index])
    )


def from_other_keys(case: Case, code: str) -> Finding | None:
    """The finding that draws take other keys than their counterparts; None: none does."""
    steps = other_keys(case)
    if not steps:
        return None
    sites = [step.target for step in steps]
    evidence = Evidence(
        f"both sides draw at {', '.join(sites[:3])}{' …' if len(sites) > 3 else ''}, from other keys", {"sites": sites}
    )
    return Finding(code, ("key",), Verdict.SEMANTIC, (evidence,), steps, {"what": ("key",)})


def makes_a_key(case: Case, origin: Origin) -> bool:
    """Whether all that comes of a difference, on both sides, is that keys are others and so the numbers drawn."""
    traces = case.traces
    if min(origin.calls) < 0 or not case.shared("draw from keys", lambda: all(map(_draws_from_keys, traces))):
        return False
    return all(
        any(only_for_keys(trace, event) for event in (*trace.calls[at].writes, *trace.calls[at].reads))
        for trace, at in zip(traces, origin.calls, strict=True)
    )


def _draws_from_keys(trace: Trace) -> bool:
    return any(takes_a_key(trace, call) for call in trace.calls)


def states_restored(case: Case) -> tuple[Intervention, ...]:
    """Every draw of the candidate begins from the state that its counterpart begins from."""
    found = [*other_keys(case)]
    for ours, theirs in case.paired():
        if ours.rng and theirs.rng and draws_alike(ours, theirs) and [*_differences(case, ours, theirs)] == ["state"]:
            found.append(Intervention(DRAW_AS, str(theirs.site), str(ours.site)))
    return tuple(found)


def _from_one_state(case: Case, ours: Call, theirs: Call) -> bool:
    states = _state(case.reference, ours), _state(case.candidate, theirs)
    return states[0] is not None and states[0] == states[1]


def _state(trace: Trace, call: Call) -> bytes | None:
    payload = trace.payload(call.rng)
    return None if payload is None else payload.bits.tobytes()
