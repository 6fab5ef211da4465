"""A difference at two precisions, and what its growth says of it (``docs/explanation/verdict-engine.md``)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from whydiff.numbers.kernels.threads import spread
from whydiff.numbers.metrics import Statistics, common_dtype, is_integer, measure_beside_fill, values
from whydiff.numbers.pieces import in_pieces
from whydiff.numbers.tolerance import (
    CANCELLED_SHARE,
    ROUNDING_LEVEL,
    SAME_FUNCTION,
    SCALING_FLOOR,
    SLOPE_ROUNDING,
    SLOPE_SEMANTIC,
    unit_roundoff,
)
from whydiff.records import Payload, Slot

Array = np.ndarray[Any, Any]
Nature = Literal["equal", "rounding", "between", "stays"]
"""What a difference does when the precision grows: there is none, it shrinks with it, undecided, it stays."""

_RANK: tuple[Nature, ...] = ("equal", "rounding", "between", "stays")
_BLOCK = 1 << 20
"""Elements of either side that are looked at together."""
_BITS = math.log(unit_roundoff("float32") / unit_roundoff("float64"))


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor of the reference against the candidate's.

    Attributes:
        mean: mean absolute difference over pairs of finite values.
        magnitude: root mean square of the reference, likewise.
        special: pairs in which NaN or infinity stands on one side only (or with the other sign).
        discrete: of integers or booleans: ``mean`` is the share of elements that differ, ``magnitude`` is 1.
        coarse: unit roundoff of the narrower dtype that holds all float64 values of both sides exactly: what made them
            rounds by itself, whatever it is given; 0: they need float64.
        own: of a mean that is faint beside the magnitude: the same over the mean size of the elements that differ.
    """

    mean: float
    magnitude: float
    special: int = 0
    discrete: bool = False
    coarse: float = 0.0
    own: float = 0.0

    @classmethod
    def between(cls, reference: Payload, candidate: Payload) -> Difference:
        """Measure two tensors of one shape."""
        return cls.of(measure_beside_fill(reference, candidate))

    @classmethod
    def of(cls, found: Statistics) -> Difference:
        """What was measured of two tensors."""
        finite = max(found.finite, 1)
        magnitude = math.sqrt(found.sum_reference_square / finite)
        return cls(found.sum_abs / finite, magnitude, found.inf_mismatch + found.nan_mismatch)

    @property
    def relative(self) -> float:
        """Mean over magnitude; 0 where the magnitude is."""
        return self.mean / self.magnitude if self.magnitude else 0.0


@dataclass(frozen=True, slots=True)
class Scale:
    """A difference at two precisions.

    Attributes:
        single, double: at float32 and float64.
        where: output slot or site.
        at: another dtype at which ``single`` was measured: of 16 bits, where float64 alone tells.
    """

    single: Difference
    double: Difference
    where: str = ""
    at: str = "float32"

    @property
    def slope(self) -> float | None:
        """log(D32 / D64) / log(u32 / u64); None if a difference is 0."""
        if not self.single.mean or not self.double.mean:
            return None
        return math.log(self.single.mean / self.double.mean) / _BITS

    @property
    def nature(self) -> Nature:
        """What the limits of `whydiff.numbers.tolerance` make of the slope."""
        if self.double.special:
            return "stays"
        if self.single.mean == self.double.mean == 0:
            return "equal"
        if self.double.mean <= SCALING_FLOOR * self.double.magnitude:
            return "stays" if self._is_hidden else "rounding"
        if self.double.coarse and self.double.mean <= ROUNDING_LEVEL * self.double.coarse * self.double.magnitude:
            return "rounding"
        if self.double.coarse and self.double.mean <= self.double.coarse**CANCELLED_SHARE * self.double.magnitude:
            return "between"
        slope = self.slope
        if slope is None:  # a difference in float64 only
            return "between"
        return "rounding" if slope >= SLOPE_ROUNDING else "stays" if slope <= SLOPE_SEMANTIC else "between"

    @property
    def _is_hidden(self) -> bool:
        """Whether a difference that no precision makes smaller is faint only beside other, larger numbers."""
        stays = self.slope is not None and self.slope <= SLOPE_SEMANTIC
        return stays and self.double.own > SAME_FUNCTION * unit_roundoff("float32")

    def __str__(self) -> str:
        if self.single.discrete:
            return f"elements that differ: {self.single.mean:.1%} in {self.at}, {self.double.mean:.1%} in float64"
        return f"mean difference {self.single.mean:.1e} in {self.at}, {self.double.mean:.1e} in float64"


def difference(reference: Payload, candidate: Payload) -> Difference | None:
    """How far two tensors are apart; None for integers and booleans, and for values without a common dtype or shape."""
    dtypes = reference.dtype, candidate.dtype
    if is_integer(dtypes[0]) or is_integer(dtypes[1]) or reference.bits.shape != candidate.bits.shape:
        return None
    if common_dtype(*dtypes) is None:
        return None
    s = measure_beside_fill(reference, candidate)
    if s.nan_both and s.nan_both == reference.bits.size:
        return None  # NaN on both sides says nothing of a distance
    found = Difference.of(s)
    faint = 0 < found.mean <= SCALING_FLOOR * found.magnitude and not s.dtype.startswith("complex")
    return replace(found, own=_own(reference, candidate)) if faint else found


def _own(reference: Payload, candidate: Payload) -> float:
    """Mean absolute difference over the mean size of the reference's elements, of those that differ."""

    def sums(ours: Array, theirs: Array) -> tuple[float, float]:
        differ = np.isfinite(ours) & np.isfinite(theirs) & (ours != theirs)
        apart, size = np.abs(theirs - ours), np.abs(ours)
        return float(np.where(differ, apart, 0.0).sum()), float(np.where(differ, size, 0.0).sum())

    found = in_pieces(sums, reference, candidate)
    size = sum(size for _, size in found)
    return sum(apart for apart, _ in found) / size if size else math.inf


def coarse(*sides: Payload) -> float:
    """Unit roundoff of float32 if that holds all of several float64 values exactly; else 0."""
    if any(side.dtype != "float64" for side in sides):
        return 0.0
    wide = [values(side.bits, side.dtype) for side in sides]
    with np.errstate(over="ignore"):
        held = all(np.array_equal(one, one.astype(np.float32).astype(np.float64), equal_nan=True) for one in wide)
    return unit_roundoff("float32") if held else 0.0


def choices(reference: Payload, candidate: Payload) -> Difference | None:
    """How many elements of two tensors of integers or booleans differ; None for other values and other shapes.

    What is chosen (an index, a count, a yes or no) is not rounded, but it is chosen by values that are: a choice
    that agrees in float64 fell otherwise by rounding, and one that differs there belongs to another function.
    """
    if not (is_integer(reference.dtype) and is_integer(candidate.dtype)):
        return None
    if reference.bits.shape != candidate.bits.shape or not reference.bits.size:
        return None
    ours, theirs = (values(side.bits, side.dtype) for side in (reference, candidate))
    return Difference(float((ours != theirs).mean()), 1.0, discrete=True)


def profile(reference: Payload, candidate: Payload) -> tuple[float, ...]:
    """Mean absolute difference at each position of the last axis but one; empty for fewer axes, no elements or complex."""
    if reference.bits.ndim < 2 or not reference.bits.size or reference.dtype.startswith("complex"):
        return ()
    length = reference.bits.shape[-2]
    step = max(1, _BLOCK * length // reference.bits.size)

    def one(begin: int) -> list[float]:
        sides = (side.bits[..., begin : begin + step, :] for side in (reference, candidate))
        ours, theirs = (values(bits, side.dtype) for bits, side in zip(sides, (reference, candidate), strict=True))
        with np.errstate(invalid="ignore"):
            error = np.abs(theirs - ours)
        error = np.where(np.isfinite(error), error, 0.0)
        found: list[float] = np.moveaxis(error, -2, 0).reshape(error.shape[-2], -1).mean(axis=1).tolist()
        return found

    return tuple(itertools.chain.from_iterable(spread(one, [(begin,) for begin in range(0, length, step)])))


def worst(single: Mapping[Slot, Difference | None], double: Mapping[Slot, Difference | None]) -> Scale | None:
    """The slot that shrinks least."""
    scales = []
    for slot, one in single.items():
        other = double.get(slot)
        if one is not None and other is not None:
            scales.append(Scale(one, other, str(slot)))
    return max(scales, key=lambda s: (_RANK.index(s.nature), s.double.mean), default=None)


def graver(floats: Scale | None, chosen: Scale | None) -> Scale | None:
    """The scale of the floating values, unless there are none or only the choices differ in float64 as well."""
    if floats is None or (chosen is not None and chosen.nature == "stays" and floats.nature != "stays"):
        return chosen
    return floats


def agrees(scale: Scale | None) -> bool:
    """Whether a difference was measured that shrinks as rounding does, or is none."""
    return scale is not None and scale.nature in ("equal", "rounding")


def stays(scale: Scale | None) -> bool:
    """Whether a difference was measured that float64 leaves as it is."""
    return scale is not None and scale.nature == "stays"
