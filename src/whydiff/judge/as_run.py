"""Numbers that are not finite at an origin: a run's own, or made on the way, where the candidate goes on with other values."""

from __future__ import annotations

import numpy as np

from whydiff.capturing.adapters import Executor, replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.metrics import is_integer, values
from whydiff.pair.replay import replay
from whydiff.records import Call, Comparison, Origin

_SPECIAL = {"nan_mismatch": "NaN", "inf_mismatch": "infinity"}


def special_numbers(comparison: Comparison) -> str:
    """What stands on one side only: NaN, infinity or both, in words; empty: neither."""
    return " and ".join(name for metric, name in _SPECIAL.items() if comparison.value(metric))


def made_on_the_way(case: Case, origin: Origin) -> bool:
    """Whether what is not finite at an origin stands in neither run as it was: values without counterparts made it.

    False where a run cannot be carried out again.
    """
    if any(call.kind != "compute" for call in _calls(case, origin)):
        return False
    found = case.shared("not finite as run", lambda: tuple(_not_finite(case, side) for side in SIDES))
    return all(known is not None and index not in known for known, index in zip(found, origin.calls, strict=True))


def _calls(case: Case, origin: Origin) -> list[Call]:
    return [trace.calls[index] for trace, index in zip(case.traces, origin.calls, strict=True) if index >= 0]


def _not_finite(case: Case, side: Side) -> frozenset[int] | None:
    """Of the calls where origins with such numbers are, those that write some in the run itself; None: it cannot be told."""
    number = SIDES.index(side)
    asked = {one.calls[number] for one in case.localization.origins if special_numbers(one.comparison)}
    found: set[int] = set()

    def look(executor: Executor, call: Call) -> None:
        for event in call.writes if call.index in asked else ():
            if event.storage >= 0 and not is_integer(event.spec.dtype):
                payload = executor.payload(executor.written(event))
                if not np.all(np.isfinite(values(payload.bits, payload.dtype))):
                    found.add(call.index)

    if replayable(case.trace(side)):
        return None
    try:
        done = replay(case.experiments.executor(side), watch=look)
    except WhydiffError:
        return None
    return None if done.failed else frozenset(found)
