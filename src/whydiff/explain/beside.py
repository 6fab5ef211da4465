"""``repeat-rows``: the rows that only one run has become copies of those that both have.

What a row gives then depends on itself alone: a statistic over the batch is its own, and a program whose rows do not
look at each other gives what it gave before. A record does not follow where Python decides by the batch; then a live
program is run again with other rows beside them (``other-rows``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import executor_of, for_framework
from whydiff.explain.sides import Side
from whydiff.pair.slices import Axis
from whydiff.records import Call, Intervention, Leaf, Lift, Payload, Trace

REPEAT = "repeat-rows"
OTHER_ROWS = "other-rows"
OTHERS = {"zeros": "zeros", "copies": "copies of them", "opposites": "copies of them with the other sign"}
"""What the rows beside the common ones may become when a live program is run again, in words."""


def repeating(trace: Trace, axis: Axis) -> tuple[Intervention, ...]:
    """What repeats the rows that both runs have in every tensor of the larger run that has the axis first."""
    return tuple(
        Intervention(REPEAT, leaf.name, (axis.starts[0], axis.small))
        for leaf in trace.leaves
        if not leaf.is_registered and leaf.storage >= 0 and leaf.spec.shape[:1] == (axis.large,)
    )


def twins(trace: Trace, other: Trace, items: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """The same for the other run, where it holds these tensors as well: whole, and not its rows of them alone.

    Args:
        trace: of the larger run.
        other: of the smaller one.
        items: from `repeating`.
    """
    rows = {leaf.fingerprint: item for leaf in trace.leaves for item in items if leaf.name == item.target}
    held = (leaf for leaf in other.leaves if leaf.fingerprint is not None and leaf.fingerprint in rows)
    return tuple(Intervention(REPEAT, leaf.name, rows[leaf.fingerprint].value) for leaf in held)


def repeated(trace: Trace, item: Intervention) -> Any:
    """A leaf's value with the rows repeated."""
    executor = executor_of(trace)
    leaf = next(leaf for leaf in trace.leaves if leaf.name == item.target)
    return executor.adopt_foreign(_copied(executor.payload(executor.leaf_value(leaf)), leaf, *item.value))


def _copied(payload: Payload, leaf: Leaf, start: int, count: int) -> Payload:
    rows = start + (np.arange(leaf.spec.shape[0]) - start) % count
    return Payload(np.ascontiguousarray(payload.bits[rows]), payload.dtype)


def first_moved(trace: Trace, items: Sequence[Intervention], axis: Axis, level: float) -> Call | None:
    """The first call whose rows that both runs have are others, in float64, when the rows beside them are copies.

    Args:
        trace: of the larger run.
        items: from `repeating`.
        axis: of the pair.
        level: what is rounding, over the size of the rows.
    """
    adapter, wide = for_framework(trace.framework), Lift("float64")
    plain = adapter.executor(trace, lift=wide)
    other = adapter.executor(trace, lift=wide, restore={item.target: repeated(trace, item) for item in items})
    rows = slice(axis.starts[0], axis.starts[0] + axis.small)
    with plain.running(), other.running():
        for call in trace.calls:
            failed = plain.execute(call) or other.execute(call)
            for event in call.writes if call.kind == "compute" and not failed else ():
                if event.spec.shape[:1] != (axis.large,) or event.storage < 0:
                    continue
                one, two = (executor.payload(executor.read(event)).bits[rows] for executor in (plain, other))
                if one.dtype.kind == "f" and np.abs(one - two).max(initial=0.0) > level * np.abs(one).max(initial=0.0):
                    return call
            plain.release(call)
            other.release(call)
    return None


def run_with(steps: Sequence[Intervention], how: str) -> tuple[Intervention, ...]:
    """The same rows of the same tensors, become other ones in a live program."""
    return tuple(Intervention(OTHER_ROWS, item.target, (*item.value, how)) for item in steps)


def larger(axes: Sequence[Axis]) -> tuple[Axis, Side] | None:
    """The axis along which two runs differ, and the side that has more of it; None unless it is the batch alone."""
    return (axes[0], axes[0].whole) if len(axes) == 1 and axes[0].name == "batch" else None
