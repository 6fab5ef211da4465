"""How the values of several ranks make up one process's value, found from the numbers alone.

No placement is read from a program: a tensor is split along an axis if its parts, one after the other, are the whole, and
partial if their sum is. What is measured in float64 holds to about 1e-15, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whydiff.numbers.tolerance import RANKS_SAME

Array = Any
Layout = Literal["replicated", "split", "partial", "norm"]


@dataclass(frozen=True, slots=True)
class Relation:
    """The whole is ``scale`` times what the ranks make up together.

    Attributes:
        layout: every rank has it, has a part of it along ``axis``, has a term of a sum, or a norm of its own part.
        axis: along which it is split; -1: it is not.
        sizes: of the ranks' parts along it.
        scale: 1; or a power of the number of ranks, where means over a rank's own rows stand for means over all.
    """

    layout: Layout
    axis: int = -1
    sizes: tuple[int, ...] = ()
    scale: float = 1.0

    def __str__(self) -> str:
        how = f"split along axis {self.axis}" if self.layout == "split" else self.layout
        return how if self.scale == 1 else f"{how}, times {self.scale:g}"

    def index(self, position: int) -> tuple[slice, ...]:
        """Where the part of the rank at a position lies in the whole."""
        if self.layout != "split":
            return ()
        begin = sum(self.sizes[:position])
        return (*(slice(None),) * self.axis, slice(begin, begin + self.sizes[position]))

    @property
    def exact(self) -> bool:
        """Whether scaling rounds nothing."""
        return bool(np.frexp(self.scale)[0] == 0.5)


def related(whole: Array, parts: Sequence[Array], noise: float = 0.0) -> Relation | None:
    """How the ranks' values make up the whole; the plainest relation that holds, None: none does.

    Args:
        whole: of the one process, float64.
        parts: of every rank in order, float64.
        noise: by how much they may differ at least, as a 2-norm.
    """
    return next((relation for relation in _candidates(whole, parts) if holds(whole, parts, relation, noise)), None)


def _candidates(whole: Array, parts: Sequence[Array]) -> Iterator[Relation]:
    shapes, count = [part.shape for part in parts], len(parts)
    scales = (1.0, 1 / count, float(count), 1 / count**2, float(count**2))
    alike = all(shape == whole.shape for shape in shapes)
    if alike:
        yield from (Relation("replicated", scale=scale) for scale in scales)
    for axis in range(whole.ndim):
        others = {shape[:axis] + shape[axis + 1 :] for shape in (whole.shape, *shapes) if len(shape) == whole.ndim}
        sizes = tuple(shape[axis] for shape in shapes if len(shape) == whole.ndim)
        if len(others) == 1 and len(sizes) == count and sum(sizes) == whole.shape[axis]:
            yield from (Relation("split", axis, sizes, scale) for scale in scales)
    if alike:
        yield from (Relation("partial", scale=scale) for scale in scales)
        yield Relation("norm")


def presumed(whole: tuple[int, ...], parts: Sequence[tuple[int, ...]]) -> Relation | None:
    """How ranks' values would make up the whole, by their shapes alone; None: in no known way."""
    shape = np.empty(whole, np.bool_), [np.empty(part, np.bool_) for part in parts]
    return next(_candidates(*shape), None)


def order(whole: Array, parts: Sequence[Array]) -> tuple[int, ...]:
    """Which part each rank has, where the ranks have parts of the whole and not each its own; empty: it is not so."""
    relation = presumed(whole.shape, [part.shape for part in parts])
    if relation is None or relation.layout != "split" or len(set(relation.sizes)) > 1:
        return ()
    own = [whole[relation.index(position)] for position in range(len(parts))]
    found = [next((i for i, one in enumerate(own) if close(one, part)), -1) for part in parts]
    return tuple(found) if -1 not in found and found != sorted(range(len(parts))) else ()


def holds(whole: Array, parts: Sequence[Array], relation: Relation, noise: float = 0.0) -> bool:
    """Whether the ranks' values make up the whole in this way."""
    if relation.layout == "replicated":
        return all(close(whole, part * relation.scale, noise) for part in parts)
    return close(whole, merged(parts, relation), noise)


def merged(parts: Sequence[Array], relation: Relation) -> Array:
    """What the ranks' values make up together."""
    if relation.layout == "replicated":
        found = parts[0]
    elif relation.layout == "split":
        found = np.concatenate(parts, axis=relation.axis)
    elif relation.layout == "norm":
        found = np.sqrt(sum((part * part for part in parts[1:]), start=parts[0] * parts[0]))
    else:
        found = sum(parts[1:], start=parts[0])
    return found if relation.scale == 1 else found * relation.scale


def norm(values: Array) -> float:
    """2-norm of what is finite."""
    return float(np.linalg.norm(values[np.isfinite(values)]))


def close(whole: Array, other: Array, noise: float = 0.0) -> bool:
    """Whether two float64 arrays are the same but for rounding in float64; what is not finite must be equal."""
    finite = np.isfinite(whole)
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    if not np.array_equal(whole[~finite], other[~finite], equal_nan=True):
        return False
    return norm((other - whole)[finite]) <= max(noise, RANKS_SAME * norm(whole[finite]))
