"""Both sides of a region judged: by one op's formula where a side is one op."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.explain.local_test.judge import LocalResult, judge_outputs
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.explain.local_test.replays import Region, operation, positions
from whydiff.records import Payload


def judge_region(
    regions: Sequence[Region],
    operations: Sequence[Operation],
    outputs: Sequence[Payload],
    singles: Sequence[tuple[Operation, Array] | None],
) -> LocalResult:
    """Judge a region; a side that is one call serves as the oracle, because hypotheses know its formula.

    Args:
        regions: both sides.
        operations: the same on what was read.
        outputs: what both recorded.
        singles: of each side that is one op, what `single_of` gives.
    """
    for base, found in enumerate(singles):
        if found is None:
            continue
        single, places = found
        shape = single.shape
        other = _rearranged(operations[1 - base], places, shape)
        moved = [Payload(p.bits.reshape(-1)[places].reshape(shape), p.dtype) for p in outputs]
        names = ("reference", "candidate") if base == 0 else ("candidate", "reference")
        return judge_outputs(single, moved[base], moved[1 - base], other, names)
    return judge_outputs(operations[0], outputs[0], outputs[1], operations[1])


def single_of(region: Region, reads: Sequence[Payload]) -> tuple[Operation, Array] | None:
    """A region's only op, and where in the region's result the elements of what it writes stand."""
    if len(region.calls) != 1:
        return None
    call = region.calls[0]
    order = positions(call.writes, region.result)
    if order is None or any(event.overwritten for event in call.reads):
        return None
    return operation(call, reads, order[0], region.lifted), order[1]


def _rearranged(op: Operation, places: Array, shape: tuple[int, ...]) -> Operation:
    def run(reads: Sequence[Array], arguments: Any) -> Array:
        return np.asarray(op.run(reads, arguments).reshape(-1)[places].reshape(shape))

    return replace(op, run=run, shape=shape)


__all__ = ["judge_region", "single_of"]
