"""What runs that nobody observes say of a difference that the observed runs do not show.

Both live programs run plainly once more with the same values in float64 (and in float32, if they hold anything
narrower): a difference that is rounding shrinks with the precision, another function's stays. The same slope as the
scaling test's (`whydiff.explain.scaling`), without a trace.
"""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.explain.case import Case
from whydiff.explain.scale import Difference, Scale, difference, worst
from whydiff.judge.anchor import Anchor, Compared, between
from whydiff.records import Output, Slot

_NARROW = ("float16", "bfloat16")


def rerun(case: Case, returned: Anchor) -> Scale | None:
    """The slot that shrinks least; None if a side is a trace or cannot run at another precision.

    Args:
        case: with its live runs.
        returned: the outputs as they were; in float32 they are one of the two points.
    """
    ours, theirs = case.runs
    if ours is None or theirs is None or not returned.having("values"):
        return None
    wide = [run.lifted("float64") for run in (ours, theirs)]
    single: Sequence[Compared] = returned.outputs
    if any(one.numbers and any(n.dtype in _NARROW for n in one.numbers) for one in returned.outputs):
        single = _pair(case, [run.lifted("float32") for run in (ours, theirs)])
    return worst(_differences(single), _differences(_pair(case, wide)))


def _pair(case: Case, outputs: Sequence[tuple[Output, ...] | None]) -> Sequence[Compared]:
    ours, theirs = outputs
    local = case.localization
    if ours is None or theirs is None:
        return ()
    return between(ours, theirs, local.axes, local.rows).outputs


def _differences(outputs: Sequence[Compared]) -> dict[Slot, Difference | None]:
    return {one.slot: difference(*one.numbers) for one in outputs if one.numbers is not None}


__all__ = ["rerun"]
