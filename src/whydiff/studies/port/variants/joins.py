"""Values that are joined in another order, or turned around along an axis on one side only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.rewrites import Applied, Rewrite

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

    def formula(applied: Applied) -> Sequence[Array]:
        return [np.concatenate([applied.reads[1], applied.reads[0]], axis)]

    said = (f"joins two values along axis {axis}", "joins them the other way round")
    return _hypothesis(side, call, said, formula, "FO004")


def _unturned(side: int, call: Call) -> Hypothesis:
    def formula(applied: Applied) -> Sequence[Array]:
        return [applied.reads[0]]

    said = (f"turns a value around ({call.site.op})", "leaves it as it is")
    return _hypothesis(side, call, said, formula, "FO008")


def _hypothesis(side: int, call: Call, said: tuple[str, str], formula: Any, code: str) -> Hypothesis:
    said = said if side == 0 else (said[1], said[0])
    own = ("reference", "candidate")[side]
    return Hypothesis(
        code=code,
        says=f"the candidate {said[1]}, the reference {said[0]} (the {own}'s {call.site})",
        said=said,
        fix=f"Let the candidate do what the reference does: it {said[0]}.",
        teller=side,
        mine=Rewrite(calls={call.index: formula}),
    )
