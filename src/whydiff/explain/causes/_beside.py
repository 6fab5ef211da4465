"""A live program run again with other rows beside the common ones: do these give the same?"""

from __future__ import annotations

from dataclasses import dataclass

from whydiff.errors import WhydiffError
from whydiff.explain.beside import OTHERS, run_with, twins
from whydiff.explain.case import Case
from whydiff.explain.sides import Side, opposite
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.pair.replay import Outputs
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Intervention, Slot, Trace


@dataclass(frozen=True, slots=True)
class Beside:
    """Rows beside the common ones that change what these give.

    Attributes:
        how: what the rows beside them became, see `whydiff.explain.beside.OTHERS`.
        steps: the interventions.
        apart: how far the common rows' results move, over their size (root mean square).
        reaches: they become the other run's.
    """

    how: str
    steps: tuple[Intervention, ...]
    apart: float
    reaches: bool


def moved_beside(case: Case, side: Side, steps: tuple[Intervention, ...]) -> Beside | None:
    """The first replacement of the other rows that changes the common ones' results by more than rounding may.

    Args:
        case: the pair of runs.
        side: of the larger run.
        steps: the rows, from `whydiff.explain.beside.repeating`.

    Returns:
        None: none does, it cannot be run again, or the smaller run looks at these rows itself.
    """
    other = opposite(side)
    traces: dict[Side, Trace] = {"reference": case.reference, "candidate": case.candidate}
    own = twins(traces[side], traces[other], steps)
    for how in OTHERS:
        changed, theirs = run_with(steps, how), run_with(own, how)
        try:
            if not case.experiments.supports(changed, on=side) or not case.experiments.supports(theirs, on=other):
                return None
            apart = _apart(case, side, changed)
            if apart is None or (theirs and _apart(case, other, theirs) != 0.0):
                return None
            if apart > 0.0:
                return Beside(how, changed, apart, case.experiments.try_out(changed, on=side).equal)
        except WhydiffError:  # the program cannot be run so
            return None
    return None


def _apart(case: Case, side: Side, steps: tuple[Intervention, ...]) -> float | None:
    """How far the common rows of a live program's outputs move; 0: by rounding at most; None: it is not known."""
    before, after = (case.experiments.plain_outputs(side, items) for items in ((), steps))
    smaller = case.experiments.plain_outputs(opposite(side))
    if not before or before.keys() != after.keys() or before.keys() != smaller.keys():
        return None
    axes = case.localization.axes if side == "candidate" else tuple(axis.turned() for axis in case.localization.axes)
    return max((_moved(axes, one, before, after, smaller) for one in before), default=None)


def _moved(axes: tuple[Axis, ...], slot: Slot, before: Outputs, after: Outputs, smaller: Outputs) -> float:
    one, other = (counterparts(smaller[slot], found[slot], axes)[1] for found in (before, after))
    apart, unit = compare_payloads(one, other).value("rel_l2"), UNIT_ROUNDOFF.get(one.dtype)
    return 0.0 if apart is None or unit is None or apart <= unit**CANCELLED_SHARE else apart
