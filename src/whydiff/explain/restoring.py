"""Tensors of the other side in the place of a side's own: as they are there, or in the dtype that the side holds.

| intervention | target | value | what it does |
|---|---|---|---|
| ``restore-state``, ``restore-input`` | leaf | the other side's name | the leaf is the other side's tensor, in its dtype |
| ``restore-values`` | leaf | the other side's name | that tensor, cast once to the dtype that the side holds the leaf in |
| ``hold-in`` | leaf | dtype | the side holds the leaf in that dtype: its own tensor, or the restored one, cast once |

Where a side was cast, a changed tensor of it is put back by its values alone: what the cast makes is another cause's, which
holds the tensor in the other side's dtype (``hold-in``) and leaves its values as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import executor_of
from whydiff.errors import ReplayError
from whydiff.explain.sides import Sides
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Intervention, Trace

VALUES, HELD = "restore-values", "hold-in"
RESTORED = frozenset({"restore-state", "restore-input", VALUES})
"""Interventions that a replay can carry out wherever the shapes are the same."""


def by_values(traces: tuple[Trace, Trace], interventions: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The same; state that the candidate (the second) holds in another dtype is put back by its values alone.

    That is of dtypes between which a cast only rounds: a whole number is no rounding, nor is a real part.
    """
    dtypes = [{leaf.name: leaf.spec.dtype for leaf in trace.leaves} for trace in traces]

    def is_held_otherwise(item: Intervention) -> bool:
        ours, theirs = dtypes[0].get(item.value or item.target, ""), dtypes[1].get(item.target, "")
        rounds = {ours, theirs} <= UNIT_ROUNDOFF.keys() and ours.startswith("complex") == theirs.startswith("complex")
        return item.name == "restore-state" and rounds and ours != theirs

    return tuple(replace(item, name=VALUES) if is_held_otherwise(item) else item for item in interventions)


def restored(sides: Sides, interventions: Sequence[Intervention]) -> dict[str, Any]:
    """Name of a leaf of the candidate → what a replay of it is given in its place.

    Args:
        sides: the reference gives the tensors.
        interventions: those in the table count.

    Raises:
        ReplayError: a tensor has another shape than the one whose place it takes.
    """
    donor, own = executor_of(sides.reference), executor_of(sides.candidate)
    theirs = {leaf.name: leaf for leaf in sides.reference.leaves}
    mine = {leaf.name: leaf for leaf in sides.candidate.leaves}
    dtypes = {item.target: str(item.value) for item in interventions if item.name == HELD}
    found = {name: own.held_in(own.leaf_value(mine[name]), dtype) for name, dtype in dtypes.items()}
    for item in interventions:
        if item.name not in RESTORED:
            continue
        given, here = theirs[item.value or item.target], mine[item.target]
        if given.spec.shape != here.spec.shape:
            raise ReplayError(
                "A tensor of another shape cannot take this one's place in a replay.",
                where=item.target,
                actual=str(here.spec),
                expected=str(given.spec),
                next_step="give the candidate as a live target",
            )
        value = donor.leaf_value(given)
        held = dtypes.get(item.target, here.spec.dtype)
        found[item.target] = donor.held_in(value, held) if item.name == VALUES else value
    return found
