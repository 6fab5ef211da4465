"""Weights of two models matched by content, whatever their layout; layouts in einops notation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.capturing.adapters import executor_of
from whydiff.numbers.formats import round_to
from whydiff.numbers.metrics import values
from whydiff.numbers.rearrangement import Rearrangement
from whydiff.numbers.tolerance import SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Count, Leaf, Payload, Trace
from whydiff.studies.port.folds import folds

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weight:
    """One tensor that both models have.

    Attributes:
        reference, candidate: names.
        layout: einops pattern from the reference's layout to the candidate's.
        axes: number of axes in the reference.
        rounded: the narrower dtype that the candidate keeps it in; empty: the numbers are equal.
        exact: what the candidate's would be in float64, where it is computed from several of the reference's.
        beside: the others that it is computed from.
    """

    reference: str
    candidate: str
    layout: str
    axes: int = 1
    rounded: str = ""
    exact: Array | None = field(default=None, compare=False)
    beside: tuple[str, ...] = ()


def match_weights(reference: Trace, candidate: Trace) -> tuple[tuple[Weight, ...], tuple[Count, ...]]:
    """State tensors that hold the same numbers, and what has no counterpart.

    Tensors are looked up by their sorted numbers; among several with the same numbers (tied weights, norms of
    ones) the n-th of one side belongs to the n-th of the other, in the order in which they are first read.
    """
    sides = [_by_numbers(trace) for trace in (reference, candidate)]
    found: list[Weight] = []
    for key, names in sides[0].items():
        for (mine, array), (other, theirs) in zip(names, sides[1].get(key, []), strict=False):
            found.append(Weight(mine, other, _said(layout_of(array, theirs, exactly)), array.ndim))
    for key, names in sides[0].items():
        sides[0][key] = names[len(sides[1].get(key, ())) :]
        sides[1][key] = sides[1].get(key, [])[len(names) :]
    found += _rounded(*sides)
    found += _folded(reference, *sides)
    counts = []
    for side, word in zip(sides, ("reference", "candidate"), strict=True):
        lone = [name for names in side.values() for name, _ in names]
        if lone:
            counts.append(
                Count(
                    what="weights",
                    reason=f"only the {word} has these numbers",
                    count=len(lone),
                    examples=tuple(lone[:3]),
                )
            )
    return tuple(found), tuple(counts)


Held = dict[bytes, list[tuple[str, Array]]]


def _rounded(reference: Held, candidate: Held) -> list[Weight]:
    """Weights that the candidate keeps in a narrower dtype; both sides lose what is matched."""
    found: list[Weight] = []
    for dtype in ("float16", "bfloat16"):
        narrow = {key: some for key, some in candidate.items() if some and _holds(some[0][1], dtype)}
        for names in reference.values():
            for mine, array in [*names]:
                key = np.sort(round_to(array, dtype), axis=None).tobytes()
                if narrow.get(key):
                    other, theirs = narrow[key].pop(0)
                    layout = layout_of(round_to(array, dtype), theirs, exactly)
                    found.append(Weight(mine, other, _said(layout), array.ndim, dtype))
                    names.remove(next(item for item in names if item[0] == mine))
    return found


def _folded(trace: Trace, reference: Held, candidate: Held) -> list[Weight]:
    """Kernels and biases into which the candidate computed a batch norm of the reference; both sides lose them."""
    lone = [item for names in candidate.values() for item in names]
    if not lone:
        return []
    executor = executor_of(trace)
    found: list[Weight] = []
    for fold in folds(trace, lambda leaf: numbers(executor.payload(executor.leaf_value(leaf)))):
        pairs = []
        for name, exact in zip((fold.kernel, fold.bias), fold.weights, strict=True):
            near = ((item, layout_of(exact, item[1], _nearly)) for item in lone if item[1].size == exact.size)
            found_one = next(((item, layout) for item, layout in near if layout is not None), None)
            if found_one is None:
                break
            (other, theirs), layout = found_one
            moved = rearranged(exact, layout, theirs.shape)
            pairs.append(Weight(name, other, _said(layout), exact.ndim, exact=moved, beside=fold.beside))
        if len(pairs) == 2:
            found += pairs
            lone = [item for item in lone if item[0] not in {pair.candidate for pair in pairs}]
    gone = ({name for w in found for name in (w.reference, *w.beside)}, {w.candidate for w in found})
    for side, names in zip((reference, candidate), gone, strict=True):
        for key, some in side.items():
            side[key] = [item for item in some if item[0] not in names]
    return found


def _holds(array: Array, dtype: str) -> bool:
    return bool(np.array_equal(round_to(array, dtype), array))


def _said(layout: Rearrangement | None) -> str:
    return "the same numbers in an order that is no permutation of axes" if layout is None else str(layout)


def _by_numbers(trace: Trace) -> Held:
    found: Held = {}
    executor = executor_of(trace)
    first: dict[int, int] = {}
    for call in trace.calls:
        for event in call.reads:
            first.setdefault(event.storage, call.index)
    leaves = [
        x for x in trace.leaves if x.is_state and x.storage >= 0 and not x.skipped and math.prod(x.spec.shape) > 1
    ]
    for leaf in sorted(leaves, key=lambda x: first.get(x.storage, -1)):
        array = numbers(executor.payload(executor.leaf_value(leaf)))
        key = np.sort(array, axis=None).tobytes()
        if not any(name == leaf.name for name, _ in found.get(key, [])):
            found.setdefault(key, []).append((leaf.name, array))
    return found


def numbers(payload: Payload) -> Array:
    """Exact values, float64."""
    return np.asarray(values(payload.bits, payload.dtype), np.float64)


def exactly(one: Array, other: Array) -> float:
    """0 if every number is equal, else infinity."""
    return 0.0 if np.array_equal(one, other) else math.inf


def distance_of(one: Array, other: Array) -> float:
    """Mean absolute difference."""
    with np.errstate(all="ignore"):
        return float(np.abs(one - other).mean())


def layout_of(reference: Array, candidate: Array, distance: Callable[[Array, Array], float]) -> Rearrangement | None:
    """What turns the reference's layout into the candidate's; None if nothing fits.

    Of several the closest by value is taken, the plainest first.
    """
    found = layouts_of(reference, candidate, distance)
    return found[0][1] if found else None


def layouts_of(
    reference: Array, candidate: Array, distance: Callable[[Array, Array], float]
) -> list[tuple[float, Rearrangement]]:
    """Every layout that the two shapes allow with the values' distance, the closest first.

    The side with more axes is permuted and its neighbours merged until it has the other's shape. The search ends at
    a distance of 0; infinite ones are left out.
    """
    turned = candidate.ndim >= reference.ndim
    split, merged = (candidate, reference) if turned else (reference, candidate)
    found: list[tuple[float, Rearrangement]] = []
    seen: set[tuple[int, ...]] = set()
    for axes in itertools.permutations(range(split.ndim)):
        groups = _groups([split.shape[a] for a in axes], merged.shape)
        moved = tuple(a for a in axes if split.shape[a] > 1)
        if groups is None or moved in seen:
            continue
        seen.add(moved)  # axes of size 1 move no numbers
        away = distance(merged, split.transpose(axes).reshape(merged.shape))
        if math.isfinite(away):
            layout = Rearrangement(split.shape, (1,) * split.ndim, axes, tuple(groups))
            found.append((away, layout.inverse if turned else layout))
        if away == 0:
            break
    return sorted(found, key=lambda item: item[0])


def _groups(sizes: Sequence[int], shape: Sequence[int]) -> list[int] | None:
    """How many consecutive axes multiply to each size of a shape; None if they do not."""
    counts: list[int] = []
    position = 0
    for size in shape:
        count, product = 0, 1
        while position < len(sizes) and (product < size or (sizes[position] == 1 and product == size)):
            product *= sizes[position]
            position, count = position + 1, count + 1
        if product != size:
            return None
        counts.append(count)
    return counts if position == len(sizes) else None


@dataclass(frozen=True)
class Input:
    """One run input that both programs were given, each in its framework's form.

    Attributes:
        leaves: the reference's and the candidate's.
        array: its numbers, in the reference's layout.
        layout: from the reference's layout to the candidate's.
        near: the candidate's numbers are others, by no more than two frameworks make of one formula in float32.
    """

    leaves: tuple[Leaf, Leaf]
    array: Array
    layout: Rearrangement
    near: bool = False


def match_inputs(reference: Trace, candidate: Trace) -> tuple[Input, ...] | None:
    """The run inputs in order; None unless all hold the same numbers on both sides, or nearly."""
    sides = [_inputs(trace) for trace in (reference, candidate)]
    if len(sides[0]) != len(sides[1]):
        return None
    found = [_matched(mine, other) for mine, other in zip(*sides, strict=True)]
    whole = tuple(given for given in found if given is not None)
    return whole if len(whole) == len(found) else None


def _matched(one: tuple[Leaf, Array], other: tuple[Leaf, Array]) -> Input | None:
    leaves, (array, theirs) = (one[0], other[0]), (one[1], other[1])
    narrow = _narrower(leaves[0].spec.dtype, leaves[1].spec.dtype)
    ours, theirs = (round_to(given, narrow) if narrow else given for given in (array, theirs))
    layout = layout_of(ours, theirs, exactly)
    near = layout_of(ours, theirs, _nearly) if layout is None and narrow else None
    settled = layout or near
    return Input(leaves, array, settled, near is not None) if settled is not None else None


def told_inputs(reference: Trace, candidate: Trace) -> tuple[Count, ...]:
    """What is said of inputs that two frameworks made each for itself, and that are not the same to the last bit."""
    sides = [_inputs(trace) for trace in (reference, candidate)]
    if len(sides[0]) != len(sides[1]):
        return ()
    near, other = list[str](), list[str]()
    for mine, theirs in zip(*sides, strict=True):
        given = _matched(mine, theirs)
        if given is not None and given.near:
            near.append(mine[0].name)
        elif given is None and mine[1].size == theirs[1].size and _narrower(mine[0].spec.dtype, theirs[0].spec.dtype):
            other.append(mine[0].name)
    why = {
        "hold other numbers on the two sides, by rounding: in float64 both sides are given the reference's": near,
        "hold other numbers on the two sides, in every layout: what departs first may be theirs": other,
    }
    return tuple(
        Count(what="inputs as they were given", reason=reason, count=len(names), examples=tuple(names[:3]))
        for reason, names in why.items()
        if names
    )


def _narrower(one: str, other: str) -> str:
    """Which of two floating dtypes keeps fewer digits; empty if one of them is none."""
    known = [dtype for dtype in (one, other) if dtype in UNIT_ROUNDOFF]
    return max(known, key=lambda dtype: UNIT_ROUNDOFF[dtype]) if len(known) == 2 else ""


def _nearly(one: Array, other: Array) -> float:
    """Mean absolute difference, if it is rounding in float32; else infinity."""
    with np.errstate(all="ignore"):
        apart, size = (float(np.sqrt(np.square(a).mean())) for a in (one - other, one))
    near = apart <= SAME_FUNCTION * UNIT_ROUNDOFF["float32"] * size  # not a number: not near
    return distance_of(one, other) if near else math.inf


def _inputs(trace: Trace) -> list[tuple[Leaf, Array]]:
    executor = executor_of(trace)
    return [
        (leaf, numbers(executor.payload(executor.leaf_value(leaf))))
        for leaf in trace.leaves
        if leaf.role == "input" and leaf.storage >= 0 and not leaf.skipped
    ]


def rearranged(array: Array, layout: Rearrangement, shape: Sequence[int]) -> Array:
    """An array in another layout."""
    return array.reshape(-1)[layout.indices()].reshape(shape)


def widened(reference: Trace, candidate: Trace, weights: Sequence[Weight]) -> dict[str, Array]:
    """What the candidate keeps in a narrower dtype, weights and inputs, with the reference's numbers: name → numbers."""
    executors = [executor_of(trace) for trace in (reference, candidate)]
    ours, theirs = ({leaf.name: leaf for leaf in trace.leaves} for trace in (reference, candidate))
    found: dict[str, Array] = {}
    for weight in weights:
        if weight.exact is not None:
            found[weight.candidate] = weight.exact
        if weight.rounded:
            whole, kept = (
                numbers(executor.payload(executor.leaf_value(leaf)))
                for executor, leaf in zip(executors, (ours[weight.reference], theirs[weight.candidate]), strict=True)
            )
            layout = layout_of(round_to(whole, weight.rounded), kept, exactly)
            if layout is not None:
                found[weight.candidate] = rearranged(whole, layout, kept.shape)
    for given in match_inputs(reference, candidate) or ():
        mine, other = given.leaves
        if given.near or mine.spec.dtype != other.spec.dtype:
            found[other.name] = rearranged(given.array, given.layout, other.spec.shape)
    return found
