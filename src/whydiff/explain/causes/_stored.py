"""What one side stores and the other computes, held against the rounding of stored numbers; see `explain.implied`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes._joint import joints_of
from whydiff.explain.causes._values import Array
from whydiff.explain.causes._view import JointView, View
from whydiff.explain.implied import Implied, as_rows, implied, one_row
from whydiff.explain.local_test import Examined, examine_joints
from whydiff.numbers.tolerance import SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Event, Leaf

_MOST = 48
"""Joints that are looked at."""


def products_alike(case: Case) -> dict[frozenset[int], Implied]:
    """Origins that together are products with stored matrices → how the implied matrices compare.

    An origin at which two stored matrices differ may be one of them: a merged adapter changes the matrix that both
    sides have, and leaves out the rest.
    """
    return case.shared("products alike", lambda: _products_alike(case))


def _products_alike(case: Case) -> dict[frozenset[int], Implied]:
    kinds = ("region", "state", "implementation")
    numbers = [
        i for i, origin in enumerate(case.localization.origins) if origin.kind in kinds and min(origin.calls) >= 0
    ]
    joints = joints_of(case, numbers)[:_MOST]
    found: dict[frozenset[int], Implied] = {}

    def visit(seen: Examined) -> None:
        joint = joints[seen.number]
        known = of_products(JointView(case, case.localization.origins[joint.members[0]], seen, joint))
        if known is not None:
            found[frozenset(joint.members)] = known[1]

    if joints:
        examine_joints(case, joints, visit)
    return found


def of_values(view: View) -> tuple[int, Implied] | None:
    """A leaf of one side's state against what the other side computes from its state alone."""
    counts = [len(calls) for calls in view.seen.calls]
    if min(counts) or not max(counts):
        return None
    side = int(counts[0] > 0)  # the side that stores
    stored, other = view.seen.results[side], 1 - side
    leaves = [_state(view.case, other, event) for event in view.seen.reads[other]]
    kept = _state(view.case, side, stored)
    if (
        kept is None
        or not kept.is_state
        or None in leaves
        or any(_one(view.case, kept, leaf) for leaf in leaves if leaf is not None)
    ):
        return None
    operation = view.seen.operations[other]

    def function(reads: Sequence[Array]) -> Array:
        return operation.run(reads, operation.arguments)

    dtypes = [leaf.spec.dtype if leaf is not None and leaf.spec.dtype in UNIT_ROUNDOFF else None for leaf in leaves]
    found = implied(view.exact[side], stored.spec.dtype, function, operation.reads, dtypes)
    return None if found is None else (side, found)


def of_products(view: View) -> tuple[int, Implied] | None:
    """One stored matrix against what the other side's products with several amount to, as maps of a value that agrees."""
    if not all(view.seen.calls):
        return None
    ours, theirs = (operation.reads for operation in view.seen.operations)
    maps = functools.cache(lambda side, at: _map(view, side, at, view.seen.operations[side].reads))
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            if one.ndim and one.dtype == np.float64 and np.array_equal(one, other):
                found = _as_maps_of(view, (i, j), maps)
                if found is not None and found[1].moves:
                    return found
    return None


def _as_maps_of(
    view: View, at: tuple[int, int], maps: Callable[[int, int], Array | None]
) -> tuple[int, Implied] | None:
    """Both sides as affine maps of the rows of one input, the one with fewer stored tensors held against the other."""
    stored = [_stored(view, side, at[side]) for side in (0, 1)]
    counts = [sum(dtype is not None for dtype in dtypes) for dtypes in stored]
    if counts[0] == counts[1]:
        return None
    side = int(counts[1] < counts[0])
    other = 1 - side
    narrow = max((d for d in stored[side] if d is not None), key=UNIT_ROUNDOFF.__getitem__, default="")
    mine, reads_now = maps(side, at[side]), view.seen.operations[other].reads
    if not narrow or mine is None:
        return None

    def function(reads: Sequence[Array]) -> Array:
        found = maps(other, at[other]) if reads is reads_now else _map(view, other, at[other], reads)
        return np.full(mine.shape, np.nan) if found is None else found

    def row(reads: Sequence[Array], which: int) -> Array:
        return one_row(_of_one(view, other, at[other], reads), reads[at[other]], which)

    found = implied(mine, narrow, function, reads_now, stored[other], row)
    return None if found is None else (side, found)


def _stored(view: View, side: int, activation: int) -> list[str | None]:
    """Per read the dtype in which it is stored; None for the input itself and for what is computed."""
    leaves = [None if i == activation else _state(view.case, side, e) for i, e in enumerate(view.seen.reads[side])]
    return [leaf.spec.dtype if leaf is not None and leaf.spec.dtype in UNIT_ROUNDOFF else None for leaf in leaves]


def _map(view: View, side: int, activation: int, reads: Sequence[Array]) -> Array | None:
    """The matrix, and what is added as its last row; None: the side is no such map."""
    function = _of_one(view, side, activation, reads)
    found = as_rows(function, np.asarray(reads[activation], np.float64), SCALING_FLOOR)
    return None if found is None else np.vstack([found.matrix, found.shift])


def _of_one(view: View, side: int, activation: int, reads: Sequence[Array]) -> Callable[[Array], Array]:
    """A side as a function of one of its reads."""
    operation = view.seen.operations[side]

    def function(x: Array) -> Array:
        given = [x if i == activation else read for i, read in enumerate(reads)]
        return np.asarray(operation.run(given, operation.arguments), np.float64)

    return function


def _one(case: Case, ours: Leaf, theirs: Leaf) -> bool:
    """Whether two leaves of either side are one: of one name, or with the same numbers."""
    if ours.spec.shape != theirs.spec.shape:
        return False
    named = {ours.name, case.rename(ours.name)} & {theirs.name, case.rename(theirs.name)}
    return bool(named) or (ours.fingerprint is not None and ours.fingerprint == theirs.fingerprint)


def _state(case: Case, side: int, event: Event) -> Leaf | None:
    """The state or constant that an event looks at; None: it is an input, or computed."""
    trace = case.traces[side]
    if event.producer >= 0:
        return None
    return next((x for x in trace.leaves if x.storage == event.storage and (x.is_state or x.role == "constant")), None)
