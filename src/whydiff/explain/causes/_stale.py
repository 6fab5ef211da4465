"""Programs that were traced before something changed which they read, and go on as they were traced.

What they read then stands in them: a tensor as a constant, a Python number as an argument of an op, a switch in which ops
there are. Traced anew they are what the code says now.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.errors import WhydiffError, guarded
from whydiff.explain.arguments import as_value, given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._compiled import stale_sides
from whydiff.explain.ladder import climbed
from whydiff.explain.reruns import changed_by_looking
from whydiff.explain.sides import SIDES, Side
from whydiff.pair.operands import holds
from whydiff.records import Call, Evidence, Intervention, Origin


@dataclass(frozen=True, slots=True)
class StaleNumber:
    """An argument that is another one where the program is traced anew.

    Attributes:
        frozen: the side whose program keeps it.
        index, origin: the origin that it is at, and its position; -1: it is at none, and another one's is shown.
        sites: of both sides' calls.
        which: position or name of the argument.
        kept, now: what the program has, what it has traced anew.
    """

    frozen: Side
    index: int
    origin: Origin
    sites: tuple[str, str]
    which: int | str
    kept: Any
    now: Any

    @property
    def give(self) -> Intervention:
        """The candidate's call gets what the reference's has."""
        return self._set("candidate")

    @property
    def put_in(self) -> Intervention:
        """The reference's call gets what the candidate's has."""
        return self._set("reference")

    def _set(self, on: Side) -> Intervention:
        value = self.now if on == self.frozen else self.kept
        return Intervention("set-argument", self.sites[SIDES.index(on)], (self.which, value))

    @property
    def evidence(self) -> Evidence:
        """Which number."""
        site = self.sites[SIDES.index(self.frozen)]
        return Evidence(
            f"{site} is given {_shown(self.kept)} in the {self.frozen}, and {_shown(self.now)} where that program is "
            "traced anew",
            {"site": site, "argument": self.which, "kept": self.kept, "now": self.now},
        )

    def __str__(self) -> str:
        op = self.sites[SIDES.index(self.frozen)].rpartition(":")[2].partition("#")[0]
        return f"a number in {op} ({_shown(self.kept)} then, {_shown(self.now)} now)"


def _shown(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def stale_numbers(case: Case) -> Sequence[StaleNumber]:
    """Numbers at origins that a program keeps from when it was traced."""
    return case.shared("stale numbers", lambda: tuple(one for side in SIDES for one in _numbers(case, side)))


def is_stale(case: Case, index: int) -> bool:
    """Whether an origin is that of such a number and is none with what is traced anew: then no formula differs there."""
    sides = {one.frozen for one in stale_numbers(case) if one.index == index}
    site = str(case.localization.origins[index].site)
    return any(site not in _left(case, side) for side in sides)


def _left(case: Case, side: Side) -> Container[str]:
    """Sites of the origins that stay where a side has its numbers of now; all, if that cannot be told."""
    return case.shared(f"left anew, {side}", lambda: _left_anew(case, side))


def _left_anew(case: Case, side: Side) -> Container[str]:
    fresh = [one.give if side == "candidate" else one.put_in for one in stale_numbers(case) if one.frozen == side]
    try:
        left = case.experiments.origins_after(fresh, on=side)
    except WhydiffError:  # whoever tries it is told
        left = None
    return {str(origin.site) for origin in case.localization.origins} if left is None else left


def as_traced_anew(case: Case) -> Side | None:
    """The side that gives the other's outputs bit for bit once it is traced anew, and does not as it is; None: neither.

    Asked of a side whose observed run, traced anew, is another program, and of one whose outputs only looking changed.
    """
    return case.shared("stale as a whole", lambda: _whole(case))


def _whole(case: Case) -> Side | None:
    asked = [side for side in SIDES if _is_another(case, side) or _unseen(case, side)]
    stale = stale_sides(case) if asked else ()
    anew = (Intervention("trace-anew", "the program"),)
    return next((side for side in stale if side in asked and case.experiments.try_out(anew, on=side).equal), None)


def _unseen(case: Case, side: Side) -> bool:
    """Whether what was observed is not what gave the outputs; a ladder, where there is one, tells of compiled code itself."""
    if side not in changed_by_looking(case):
        return False
    ladder = climbed(case, side)
    return ladder is None or not ladder.stale


def _is_another(case: Case, side: Side) -> bool:
    anew, calls = _anew(case, side), case.trace(side).calls
    alike = [(_made(call), call.arguments) for call in anew] == [(_made(call), call.arguments) for call in calls]
    return bool(anew) and not alike


def _anew(case: Case, side: Side) -> tuple[Call, ...]:
    """The calls of a side that is traced anew, where ops differ or are given something else; nothing: not known."""
    return case.shared(f"traced anew, {side}", lambda: _traced(case, side))


def _traced(case: Case, side: Side) -> tuple[Call, ...]:
    run = case.runs[SIDES.index(side)]
    asked = any(one.kind in ("arguments", "region") for one in case.localization.origins)
    if run is None or not asked or case.trace(side).observer.deterministic is False:
        return ()
    with guarded(f"tracing the {side} anew"):
        return run.traced_anew()
    return ()


def _numbers(case: Case, side: Side) -> Sequence[StaleNumber]:
    """Numbers of which one is at an origin, if they are all that the program would have otherwise if traced anew."""
    at = SIDES.index(side)
    calls, anew = case.trace(side).calls, _anew(case, side)
    every = enumerate(case.localization.origins)
    origins = {one.calls[at]: (i, one) for i, one in every if one.kind == "arguments" and min(one.calls) >= 0}
    if not origins or [_made(call) for call in anew] != [_made(call) for call in calls]:
        return ()
    first = next(iter(origins.values()))[1]
    partner = case.partners[at]
    found: list[StaleNumber] = []
    for call, fresh in zip(calls, anew, strict=True):
        if call.arguments == fresh.arguments:
            continue
        other = case.traces[1 - at].calls[partner.get(call.index, -1)]
        values = [(which, as_value(kept), as_value(now)) for which, kept, now in given_otherwise(call, fresh)]
        for which, kept, now in values:
            if kept is None or now is None or call.index not in partner or not _has(other, which, now[0]):
                return ()
            sites = (str(call.site), str(other.site)) if at == 0 else (str(other.site), str(call.site))
            index, origin = origins.get(call.index, (-1, first))
            found.append(StaleNumber(side, index, origin, sites, which, kept[0], now[0]))
    return found if any(one.index >= 0 for one in found) else ()


def _made(call: Call) -> tuple[Any, ...]:
    """What a call that is given another number has in common with itself."""
    return (call.target, *(event.spec for event in (*call.reads, *call.writes)))


def _has(call: Call, which: int | str, value: Any) -> bool:
    """Whether a call is given a value there, or a tensor that holds it."""
    args, named = call.arguments
    given = named.get(which) if isinstance(which, str) else args[which] if which < len(args) else None
    if isinstance(given, dict) and "$read" in given:
        return isinstance(value, (int, float)) and holds(call.reads[given["$read"]], value)
    return bool(given == value)
