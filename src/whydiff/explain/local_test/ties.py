"""Choices among equal values: both sides choose by the same numbers, and take other ones of those that are equal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.local_test.judge import LocalResult
from whydiff.explain.local_test.operation import Array
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.records import Call, Evidence, Payload, Verdict


def chooses(framework: str, calls: Sequence[Call]) -> bool:
    """Whether one of some ops says where the largest or smallest values stand of what none of the others made."""
    roles, made = for_framework(framework).roles, {call.index for call in calls}
    choosing = (call for call in calls if Role.CHOOSES in roles(call.site.op))
    return any(all(event.producer not in made for event in call.reads) for call in choosing)


def ties_broken_otherwise(reads: Sequence[Sequence[Array]], outputs: Sequence[Payload]) -> LocalResult | None:
    """The result for two choices of one set of values that differ only where the chosen values are equal.

    Args:
        reads: what either side's ops read.
        outputs: both sides' places, of equal shape.

    Returns:
        None if these are no places, the sides do not read the same values bit for bit, or values that differ were chosen.
    """
    if not all(is_integer(output.dtype) for output in outputs):
        return None
    ours, theirs = (np.asarray(values(output.bits, output.dtype)) for output in outputs)
    if ours.dtype == bool or theirs.dtype == bool or ours.shape != theirs.shape:
        return None
    other = int(np.count_nonzero(ours != theirs))
    floats = [[read for read in side if read.dtype == np.float64] for side in reads]  # whole numbers may be places
    both = [one for one in floats[0] if any(np.array_equal(one, same, equal_nan=True) for same in floats[1])]
    if not other or not any(_equal_at(one, ours, theirs) for one in both):
        return None
    evidence = Evidence(
        f"{other} of {ours.size} places are others, and the values at all of them are equal bit for bit",
        {"other_places": other, "places": int(ours.size)},
    )
    reason = "both sides choose by the same numbers, and choose otherwise only among equal ones"
    return LocalResult(Verdict.SEMANTIC, reason, (evidence,), tied=True)


def far_apart(case: Case) -> bool:
    """Whether outputs lie so far apart, as recorded, that rounding alone would be a loss of more than half of the digits.

    Other choices among equal values may change no more than the order of a sum; lifted, values are no longer equal, and
    nothing is left to be measured.
    """
    returned = [event for call in case.reference.calls if call.kind == "return" for event in call.reads]
    units = [UNIT_ROUNDOFF[event.spec.dtype] for event in returned if event.spec.dtype in UNIT_ROUNDOFF]
    apart = [comparison.value("rel_l2") or 0.0 for _, comparison in case.localization.outputs]
    return bool(units) and max(apart, default=0.0) > max(units) ** CANCELLED_SHARE


def _equal_at(by: Array, ours: Array, theirs: Array) -> bool:
    """Whether two sets of places along some axis of an array hold the same values, one by one."""
    for axis in range(by.ndim):
        sides = [ours, theirs]
        if ours.ndim == by.ndim - 1:
            sides = [np.expand_dims(side, axis) for side in sides]
        elsewhere = [shape[:axis] + shape[axis + 1 :] for shape in (by.shape, sides[0].shape)]
        if sides[0].ndim != by.ndim or elsewhere[0] != elsewhere[1]:
            continue
        if any(side.min() < 0 or side.max() >= by.shape[axis] for side in sides):
            continue
        one, other = (np.take_along_axis(by, side, axis) for side in sides)
        if np.array_equal(one, other, equal_nan=True):
            return True
    return False


__all__ = ["chooses", "far_apart", "ties_broken_otherwise"]
