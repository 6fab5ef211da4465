"""Where tokens stand that one run takes alone, beside a cache: counted on until both runs agree in float64.

The other run takes the whole text at once. Where the one run's numbers are the program's own (a constant that becomes
angles or looks up a table), what they should be is found by trying: all of them are counted on by one offset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._flow import Roles
from whydiff.explain.causes._settings import enough
from whydiff.explain.causes._values import Array, number
from whydiff.explain.causes._view import consumers
from whydiff.explain.changed import COUNT
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import SCALING_FLOOR
from whydiff.records import Call, Evidence, Intervention, Leaf

_MOST = 64
"""Tokens that are taken at once beside a cache, and how often (a size, not a tolerance)."""
_NEAR = (-1, 1, -2, 2)


@dataclass(frozen=True, slots=True)
class Moved:
    """Tokens of the candidate that stand elsewhere than in the whole text.

    Attributes:
        offset: how far the candidate's places lie beyond the reference's.
        taker: the first op that takes one up.
        evidence: measured.
        put_right: counts them on.
    """

    offset: int
    taker: Call
    evidence: Evidence
    put_right: tuple[Intervention, ...]


def moved(case: Case, takes: Callable[[Call, Roles], bool], most: int) -> Moved | None:
    """The candidate's places beside a cache, if counting them on makes runs of two sizes agree in float64.

    Args:
        case: the pair of runs.
        takes: whether a call that plays these parts takes numbers up as positions.
        most: over how many ops they are followed.
    """
    axes = case.localization.axes
    if not axes or not case.replayable or enough(case):
        return None
    found = list(_places(case, takes, most))
    before = case.experiments.apart_if_told(()) if found else None
    if before is None or before <= SCALING_FLOOR:
        return None
    first = int(found[0][1].reshape(-1)[0])
    larger = [axis for axis in axes if axis.whole == "reference"]
    begins = [place - first for axis in larger for place in (*axis.starts, axis.small, axis.large - axis.small)]
    for offset in dict.fromkeys((*begins, *_NEAR)):
        steps = tuple(Intervention(COUNT, leaf.name, offset) for leaf, _, _ in found)
        after = case.experiments.apart_if_told(steps) if offset else None
        if after is not None and after <= SCALING_FLOOR:
            return _moved(found, -offset, (before, after), steps)
    return None


def _moved(
    found: list[tuple[Leaf, Array, Call]], offset: int, apart: tuple[float, float], steps: tuple[Intervention, ...]
) -> Moved:
    taker, count = found[0][2], sum(numbers.size for _, numbers, _ in found)
    evidence = Evidence(
        f"{count} token(s) that the candidate takes beside a cache stand at the reference's places {offset:+d}, the first at "
        f"{found[0][1].reshape(-1)[0]:.0f}, taken up at {taker.site.at('')}; counted on by {-offset:+d} the outputs lie "
        f"{apart[1]:.1e} of their size apart in float64, and {apart[0]:.1e} before",
        {"offset": offset, "places": count, "taken_up_at": str(taker.site.at("")), "apart_in_float64": apart[0]},
    )
    return Moved(offset, taker, evidence, steps)


def _places(case: Case, takes: Callable[[Call, Roles], bool], most: int) -> Iterator[tuple[Leaf, Array, Call]]:
    """Whole numbers of the candidate's own that rise by one and are taken up as positions, and what takes them up."""
    trace = case.candidate
    roles = for_framework(trace.framework).roles
    small = [x for x in trace.leaves if x.role == "constant" and is_integer(x.spec.dtype) and 0 < x.spec.numel <= _MOST]
    if len(small) > _MOST:  # each is followed through the whole run
        return
    reading: dict[int, list[Call]] = {}
    for call in trace.calls:
        for storage in {event.storage for event in call.reads if event.producer < 0 and call.kind != "view"}:
            reading.setdefault(storage, []).append(call)
    for leaf in small:
        first = reading.get(leaf.storage, [])
        after = (later for call in first for later in (call, *consumers(case, 1, call, most)))
        taker = next((call for call in after if takes(call, roles(call.site.op))), None)
        payload = trace.payload(leaf.payload) if taker is not None else None
        if taker is not None and payload is not None and np.all(np.diff(number(payload).reshape(-1)) == 1):
            yield leaf, number(payload), taker
