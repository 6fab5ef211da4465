"""Rearrangements of a tensor's elements in einops notation: parsed, carried out, and searched for by values.

Only what a mixed-up layout needs: axes are permuted, and one axis may be split into factors whose order changes
(``"b t (h d) -> b t (d h), h=4"``). Notation: Rogozhnikov, Einops, ICLR 2022.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.errors import UsageError

Indices = np.ndarray[Any, np.dtype[np.int64]]
_NAMES = "abcdefgijklm"
_MOST_AXES = 5


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """Another order of a tensor's elements.

    Attributes:
        factors: elementary sizes, in the order of the tensor.
        groups: per axis of the tensor, how many factors it is made of.
        order: the factors' order after the rearrangement.
        after: per axis of the result, how many factors it is made of.
    """

    factors: tuple[int, ...]
    groups: tuple[int, ...]
    order: tuple[int, ...]
    after: tuple[int, ...]

    def indices(self) -> Indices:
        """Flat positions in the tensor, in the order of the result's elements."""
        places = np.arange(math.prod(self.factors), dtype=np.int64).reshape(self.factors)
        return places.transpose(self.order).reshape(-1)

    def at(self, places: Indices) -> Indices:
        """The same for some flat positions of the result only."""
        coordinates = np.unravel_index(places, tuple(self.factors[i] for i in self.order))
        back = [coordinates[self.order.index(i)] for i in range(len(self.factors))]
        return np.asarray(np.ravel_multi_index(back, self.factors), dtype=np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return _sizes(self.factors, self.groups)

    @property
    def inverse(self) -> Rearrangement:
        """What undoes it."""
        factors = tuple(self.factors[i] for i in self.order)
        return Rearrangement(
            factors=factors,
            groups=self.after,
            order=tuple(self.order.index(i) for i in range(len(factors))),
            after=self.groups,
        )

    def __str__(self) -> str:
        names = [_NAMES[i] for i in range(len(self.factors))]
        left = _spoken(names, self.groups)
        right = _spoken([names[i] for i in self.order], self.after)
        inside, at = [], 0
        for count in self.groups:
            inside += [f"{names[i]}={self.factors[i]}" for i in range(at, at + count - 1)]
            at += count
        return ", ".join([f"{left} -> {right}", *inside])


def parse(text: str, shape: Sequence[int]) -> Rearrangement:
    """A rearrangement from its text and the shape that it is applied to.

    Raises:
        UsageError: the text is no pattern of this kind or does not fit the shape.
    """
    try:
        pattern, *given = [part.strip() for part in text.split(",")]
        left, right = (_axes(side) for side in pattern.split("->"))
        sizes = {name: int(value) for name, value in (item.split("=") for item in given)}
        for axis, size in zip(left, shape, strict=True):
            unknown = [name for name in axis if name not in sizes]
            known = math.prod(sizes[name] for name in axis if name in sizes)
            if len(unknown) > 1 or size % known:
                raise ValueError(axis)
            sizes |= dict.fromkeys(unknown, size // known)
        names = [name for axis in left for name in axis]
        order = tuple(names.index(name) for axis in right for name in axis)
        if sorted(order) != list(range(len(names))):
            raise ValueError(right)
    except (ValueError, KeyError, ZeroDivisionError) as error:
        raise UsageError(
            "This is no rearrangement of such a tensor.",
            actual=f"{text!r} on {list(shape)}",
            expected="einops notation, such as 'a (b c) -> a (c b), b=2'",
        ) from error
    return Rearrangement(
        factors=tuple(sizes[n] for n in names), groups=tuple(map(len, left)), order=order, after=tuple(map(len, right))
    )


def candidates(shape: Sequence[int], after: Sequence[int] | None = None) -> Iterator[Rearrangement]:
    """Rearrangements that mixed-up layouts make, the simplest first; the identity is left out.

    Axes permuted (up to five); one axis split into two factors that change places; one axis split into three
    of which two change places.

    Args:
        shape: of the tensor.
        after: shape of the result; the same if omitted.
    """
    shape = tuple(shape)
    wanted = shape if after is None else tuple(after)
    ones = (1,) * len(shape)
    if 1 < len(shape) <= _MOST_AXES:
        for order in itertools.permutations(range(len(shape))):
            moved = [i for i in order if shape[i] > 1]
            if moved != sorted(moved) and tuple(shape[i] for i in order) == wanted:
                yield Rearrangement(factors=shape, groups=ones, order=order, after=ones)
    if wanted != shape:
        return
    for parts in (2, 3):
        for axis in reversed(range(len(shape))):
            for split in _splits(shape[axis], parts):
                for order in ((1, 0),) if parts == 2 else ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
                    yield _within(shape, axis, split, order)


def _within(shape: tuple[int, ...], axis: int, split: tuple[int, ...], order: tuple[int, ...]) -> Rearrangement:
    factors = (*shape[:axis], *split, *shape[axis + 1 :])
    whole = (*range(axis), *(axis + i for i in order), *range(axis + len(split), len(factors)))
    groups = tuple(len(split) if i == axis else 1 for i in range(len(shape)))
    return Rearrangement(factors=factors, groups=groups, order=whole, after=groups)


def _splits(size: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a size as an ordered product of factors above 1."""
    if parts == 1:
        if size > 1:
            yield (size,)
        return
    for first in range(2, size // 2 + 1):
        if size % first == 0:
            for rest in _splits(size // first, parts - 1):
                yield (first, *rest)


def _sizes(factors: Sequence[int], groups: Sequence[int]) -> tuple[int, ...]:
    ends = list(itertools.accumulate(groups))
    return tuple(math.prod(factors[end - count : end]) for end, count in zip(ends, groups, strict=True))


def _spoken(names: Sequence[str], groups: Sequence[int]) -> str:
    ends = itertools.accumulate(groups)
    parts = [names[end - count : end] for end, count in zip(ends, groups, strict=True)]
    return " ".join(part[0] if len(part) == 1 else f"({' '.join(part)})" for part in parts)


def _axes(side: str) -> list[list[str]]:
    """``"a (b c)"`` → [["a"], ["b", "c"]]."""
    axes: list[list[str]] = []
    inside = False
    for word in side.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            axes.append([])
            inside = True
        elif word == ")":
            inside = False
        elif inside:
            axes[-1].append(word)
        else:
            axes.append([word])
    return axes
