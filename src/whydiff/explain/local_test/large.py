"""Regions whose values on the way are too many to be held: both sides are carried out at a sample of the results.

What is sampled is judged as any sample is: rows of the result, all of each, those that differ most among them. They lie in
a few groups (heads of an attention), so that little is read of what rows share. For what else looks at the region
(`whydiff.explain.causes`) it is there as an operation that gives these results and no others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.errors import ReplayError
from whydiff.explain.local_test.boxes import place_in
from whydiff.explain.local_test.cut import Cut
from whydiff.explain.local_test.families import evaluate, kind_of
from whydiff.explain.local_test.judge import LocalResult, judge_outputs
from whydiff.explain.local_test.looks import layout_of
from whydiff.explain.local_test.measures import farthest
from whydiff.explain.local_test.operation import Array, Operation, sample_of
from whydiff.explain.local_test.replays import Region, operation, positions
from whydiff.records import Payload

_GROUPS, _ROWS = 4, 32
"""In how many groups rows are sampled at most, and how many rows at least, but for those that differ most."""
_NAMES = ("reference", "candidate")


@dataclass(frozen=True, eq=False)
class Sampled:
    """A region at some of its results.

    Attributes:
        result: the local test's decision.
        operations: both sides, each giving these results, flat.
        outputs: what both sides recorded there.
        singles: of a side that is one attention op, that op on some heads.
    """

    result: LocalResult
    operations: tuple[Operation, Operation]
    outputs: tuple[Payload, Payload]
    singles: tuple[tuple[Operation, None] | None, tuple[Operation, None] | None] = (None, None)


def is_large(region: Region, most: int) -> bool:
    """Whether one of a region's calls makes more numbers than can be held."""
    return any(made.spec.numel > most for call in region.calls for made in call.writes)


def judge_large(
    regions: Sequence[Region], reads: Sequence[Sequence[Payload]], outputs: Sequence[Payload], most: int
) -> Sampled:
    """Judge both sides of a region at a sample of its results; a side that is one attention op serves as the oracle.

    Args:
        regions: both sides.
        reads: what they read.
        outputs: what both recorded, of one shape.
        most: numbers that one call may make at once.

    Raises:
        ReplayError: a side can be carried out as a whole only, or not in float64.
    """
    far, total = farthest(outputs[0], outputs[1], above=0), outputs[0].bits.size
    for base in (0, 1):
        heads = _Heads.of(regions[base], reads[base], far)
        if heads is None:
            continue
        other = _cut(regions[1 - base], reads[1 - base], heads.places[heads.index], heads.index, most)
        both = (heads.op, replace(other, shape=heads.op.shape))
        shown = [Payload(one.bits.reshape(-1)[heads.places].reshape(heads.op.shape), one.dtype) for one in outputs]
        if base == 0:
            found = _judged(both, (shown[0], shown[1]), _NAMES, heads.index, total)
            return replace(found, singles=((heads.op, None), None))
        found = _judged(both, (shown[1], shown[0]), _NAMES[::-1], heads.index, total)
        return Sampled(found.result, found.operations[::-1], found.outputs[::-1], (None, (heads.op, None)))
    index = rows_of(layout_of(regions[0].result)[0], far)
    ours, theirs = (_cut(region, read, index, index, most) for region, read in zip(regions, reads, strict=True))
    return _judged((ours, replace(theirs, shape=ours.shape)), (outputs[0], outputs[1]), _NAMES, index, total)


def rows_of(shape: Sequence[int], far: Sequence[int] | Array) -> Array:
    """Flat positions of sampled rows (along the last axis) in a few groups (along all axes but the last two).

    The rows of all groups are at the same positions, so that what they read in common is a box.

    Args:
        shape: of the result.
        far: flat positions from the one that differs most on; half of the groups are theirs, and their rows are among
            the positions.

    Returns:
        Sorted int64 positions, without repetition.
    """
    if len(shape) < 2:
        return sample_of(shape, also=np.asarray(far, dtype=np.int64))
    length, width = shape[-2:]
    generator = np.random.default_rng(20250)
    count = math.prod(shape[:-2])
    apart = [int(position) // width for position in far]
    first = list(dict.fromkeys(row // length for row in apart))[: _GROUPS // 2]
    others = [int(group) for group in generator.permutation(count) if group not in first]
    groups = (first + others)[:_GROUPS]
    at = generator.choice(length, min(length, -(-_ROWS // len(groups))), replace=False)
    at = np.union1d(at, np.asarray([row % length for row in apart], dtype=np.int64))
    rows = np.sort(groups)[:, None] * length + at
    return np.asarray((rows.reshape(-1, 1) * width + np.arange(width)).reshape(-1))


@dataclass(frozen=True, eq=False)
class _Heads:
    """An attention op that a region's side is, on the heads in which results are sampled.

    Attributes:
        op: the op on these heads, ``[1, heads, L, D]``.
        index: flat positions of the sampled results in it.
        places: flat position in the region's result of each of its outputs.
    """

    op: Operation
    index: Array
    places: Array

    @classmethod
    def of(cls, region: Region, reads: Sequence[Payload], far: Array) -> _Heads | None:
        """None: the side is no attention op whose formula is known."""
        call = region.calls[0] if len(region.calls) == 1 else None
        order = positions(call.writes, region.result) if call is not None else None
        if call is None or order is None or any(event.overwritten for event in call.reads):
            return None
        slot, places = order
        op = operation(call, (), slot, region.lifted)
        if kind_of(op) != "attention":
            return None
        written = layout_of(call.writes[slot])
        known = [place_in(int(place), layout_of(region.result), written) for place in far]
        index = rows_of(op.shape, [place for place in known if place is not None])
        size = math.prod(op.shape[2:])
        heads, at = np.unique(index // size, return_inverse=True)
        few = replace(
            operation(call, _of_heads(op, reads, heads), slot, region.lifted), shape=(1, heads.size, *op.shape[2:])
        )
        return cls(few, at * size + index % size, places.reshape(-1, size)[heads].reshape(-1))


def _of_heads(op: Operation, reads: Sequence[Payload], heads: Array) -> list[Payload]:
    """What an attention op reads for some heads of some batches, each as a head of one batch with its own keys."""
    found = list(reads)
    batch, head = np.divmod(heads, op.shape[1])
    for meaning in ("query", "key", "value", "mask"):
        at = op.read_at(meaning)
        if at is None:
            continue
        bits = reads[at].bits.reshape((1,) * (4 - reads[at].bits.ndim) + reads[at].bits.shape)
        shared = max(op.shape[1] // bits.shape[1], 1)  # heads that read the same keys
        rows = bits[np.minimum(batch, bits.shape[0] - 1), np.minimum(head // shared, bits.shape[1] - 1)]
        found[at] = Payload(np.ascontiguousarray(rows[None]), reads[at].dtype)
    return found


def _cut(region: Region, reads: Sequence[Payload], wanted: Array, index: Array, most: int) -> Operation:
    """A region as an operation that is carried out at some results.

    Args:
        region: one side.
        reads: what it read.
        wanted: flat positions in its result.
        index: what they are called where it is asked for them.
        most: numbers that one call may make at once.
    """
    cut = Cut(region, wanted, most)
    op = region.operation(cut.reads(reads))
    known: list[Array] = []

    def run_at(arrays: Sequence[Array], asked: Array) -> Array:
        if not np.array_equal(asked, index):
            raise ReplayError("Only the sampled results of a large region are carried out.", where=op.name)
        if any(one is not other for one, other in zip(arrays, op.reads, strict=True)):
            return cut.run(arrays)
        if not known:
            known.append(cut.run(arrays))
        return known[0]

    return replace(op, run_at=run_at)


def _judged(
    sides: tuple[Operation, Operation],
    outputs: tuple[Payload, Payload],
    names: tuple[str, str],
    index: Array,
    total: int,
) -> Sampled:
    result = judge_outputs(sides[0], *outputs, sides[1], names, index=index, total=total)
    few = [Payload(one.bits.reshape(-1)[index], one.dtype) for one in outputs]
    return Sampled(result, (_at(sides[0], index), _at(sides[1], index)), (few[0], few[1]))


def _at(op: Operation, index: Array) -> Operation:
    """An operation that gives some of another one's results, flat."""

    def run(reads: Sequence[Array], arguments: Any) -> Array:
        return np.array(evaluate(replace(op, reads=tuple(reads), arguments=arguments), index))

    return replace(op, run=run, run_at=None, shape=(index.size,))


__all__ = ["Sampled", "is_large", "judge_large", "rows_of"]
