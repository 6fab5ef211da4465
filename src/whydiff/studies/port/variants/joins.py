"""Values that are joined in another order, or turned around along an axis on one side only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Formula, Rewrite

Array = np.ndarray[Any, Any]
_CALLS = 8
"""Calls of a region, the nearest first, that are looked at (a size, not a tolerance)."""


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Each join of two values the other way round; each value that is turned around left as it is."""
    for side in (0, 1):
        roles = for_framework(bench.traces[side].framework).roles
        calls = [call for call in bench.region(side, number) if roles(call.site.op) & {Role.JOINS, Role.REVERSES}]
        for call in calls[:_CALLS]:
            if Role.REVERSES in roles(call.site.op):
                yield _unturned(side, call)
            elif len(call.reads) == 2 and _axis(call) is not None:
                yield _reversed(side, call)


def _axis(call: Call) -> int | None:
    """Along which axis two values are joined, by their shapes."""
    one, other, whole = *(read.spec.shape for read in call.reads), call.writes[0].spec.shape
    if len({len(one), len(other), len(whole)}) > 1:
        return None
    return next((axis for axis, (a, b, n) in enumerate(zip(one, other, whole, strict=True)) if a + b == n), None)


def _reversed(side: int, call: Call) -> Hypothesis:
    axis = _axis(call)
    assert axis is not None
    said = (f"joins two values along axis {axis}", "joins them the other way round")
    return _hypothesis(
        side, call, said, lambda applied: [np.concatenate([applied.reads[1], applied.reads[0]], axis)], "FO004"
    )


def _unturned(side: int, call: Call) -> Hypothesis:
    said = (f"turns a value around ({call.site.op})", "leaves it as it is")
    return _hypothesis(side, call, said, lambda applied: [applied.reads[0]], "FO008")


def _hypothesis(side: int, call: Call, said: tuple[str, str], formula: Formula, code: str) -> Hypothesis:
    own = ("reference", "candidate")[side]
    return taken_for(
        code,
        side,
        said,
        Rewrite(calls={call.index: formula}),
        says=f"the candidate {{candidate}}, the reference {{reference}} (the {own}'s {call.site})",
        fix="Let the candidate do what the reference does: it {reference}.",
    )
