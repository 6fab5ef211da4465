"""Parts of tensors that share memory: which elements of what was written are those that a look at it shows.

A box is one sorted index array per dimension and stands for all their combinations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from whydiff.explain.local_test.looks import Layout
from whydiff.explain.local_test.operation import Array

Box = tuple[Array, ...]
Ways = tuple[Array, ...]
"""Indices into a written tensor, each as it depends on the dimensions of a look."""


def whole(shape: Sequence[int]) -> Box:
    """Every element."""
    return tuple(np.arange(size) for size in shape)


def volume(box: Box) -> int:
    """How many elements it holds."""
    return math.prod(part.size for part in box)


def joined(one: Box | None, other: Box) -> Box:
    """The smallest box that holds both."""
    if one is None:
        return other
    return tuple(np.union1d(a, b) for a, b in zip(one, other, strict=True))


def holding(index: Array, shape: Sequence[int]) -> Box:
    """The smallest box that holds these flat positions."""
    return tuple(np.unique(part) for part in np.unravel_index(index, tuple(shape)))


def within(index: Array, shape: Sequence[int], box: Box) -> tuple[Array, ...]:
    """Where flat positions of a tensor are in what a box shows of it."""
    found = np.unravel_index(index, tuple(shape))
    return tuple(np.searchsorted(part, at) for part, at in zip(box, found, strict=True))


def taken(array: Array, box: Box) -> Array:
    """The elements of a box: a view where that is all, or one run of indices along every dimension."""
    for axis, part in sorted(enumerate(box), key=lambda one: one[1].size / max(array.shape[one[0]], 1)):
        size = array.shape[axis]
        if part.size == size and (not size or (part[0] == 0 and part[-1] == size - 1)):
            continue
        if part.size and part[-1] - part[0] == part.size - 1:
            array = array[(slice(None),) * axis + (slice(int(part[0]), int(part[-1]) + 1),)]
        else:
            array = array.take(part, axis=axis)
    return array


def place_in(position: int, look: Layout, written: Layout) -> int | None:
    """Where one flat position of a look stands in a dense tensor of the same memory, flat; None: it is not in it."""
    index = np.unravel_index(position, look[0])
    place = look[2] - written[2] + sum(int(at) * stride for at, stride in zip(index, look[1], strict=True))
    if not 0 <= place < math.prod(written[0]) or not is_dense(written):
        return None
    digits = [place // stride % size if size > 1 else 0 for size, stride in zip(*written[:2], strict=True)]
    return int(np.ravel_multi_index(digits, written[0]))


def is_dense(layout: Layout) -> bool:
    """Whether a tensor's elements lie one beside the other, in some order of its dimensions."""
    reach = 1
    for stride, size in sorted((stride, size) for size, stride in zip(*layout[:2], strict=True) if size > 1):
        if stride != reach:
            return False
        reach *= size
    return True


def along(look: Layout, box: Box, written: Layout) -> Ways | None:
    """Where what a box shows of a look stands in a dense tensor of the same memory, dimension by dimension.

    Every place in memory is a number whose digits are the tensor's indices, and a step along a dimension of the look adds
    digits of its own. Where no sum of them is carried, each index of the written tensor is a sum of such steps.

    Returns:
        For every dimension of ``written`` its index, as arrays that broadcast over the box (flat indices are never made);
        None where something is carried, or lies outside.
    """
    shape, strides, offset = written
    steps = [np.asarray([look[2] - offset]), *(part * stride for part, stride in zip(box, look[1], strict=True))]
    if any(int(step.min(initial=0)) < 0 for step in steps):
        return None
    if sum(int(step.max(initial=0)) for step in steps) >= math.prod(shape):
        return None
    found = []
    for size, stride in zip(shape, strides, strict=True):
        digits = [step // stride % size if size > 1 else np.zeros_like(step) for step in steps]
        if sum(int(digit.max(initial=0)) for digit in digits) >= size:
            return None
        moving = [(axis, digit) for axis, digit in enumerate(digits[1:]) if digit.any()]
        first = digits[0].reshape((1,) * len(box))
        found.append(sum((_on(axis, digit, len(box)) for axis, digit in moving), first))
    return tuple(found)


def _on(axis: int, digits: Array, rank: int) -> Array:
    return digits.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1))


def covered(ways: Ways) -> Box:
    """The box of the written tensor that a look needs."""
    return tuple(np.unique(way) for way in ways)


def gathered(part: Array, held: Box, ways: Ways, box: Box) -> Array:
    """What a box shows of a look, from the part of the written tensor that is held.

    Args:
        part: the elements of ``held``.
        held: a box of the written tensor that covers the look's.
        ways: from `along`.
        box: of the look.
    """
    at = tuple(np.searchsorted(known, way) for way, known in zip(ways, held, strict=True))
    return np.broadcast_to(part[at], [one.size for one in box])


__all__ = [
    "Box",
    "Ways",
    "along",
    "covered",
    "gathered",
    "holding",
    "is_dense",
    "joined",
    "place_in",
    "taken",
    "volume",
    "whole",
    "within",
]
