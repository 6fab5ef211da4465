"""A difference at two precisions, and what its growth says of it (``docs/explanation/verdict-engine.md``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from whydiff.numbers.metrics import common_dtype, is_integer, measure
from whydiff.numbers.tolerance import SCALING_FLOOR, SLOPE_ROUNDING, SLOPE_SEMANTIC, unit_roundoff
from whydiff.records import Payload, Slot

Nature = Literal["equal", "rounding", "between", "stays"]
"""What a difference does when the precision grows: there is none, it shrinks with it, undecided, it stays."""

_RANK: tuple[Nature, ...] = ("equal", "rounding", "between", "stays")
_BITS = math.log(unit_roundoff("float32") / unit_roundoff("float64"))


@dataclass(frozen=True, slots=True)
class Difference:
    """One tensor of the reference against the candidate's.

    Attributes:
        mean: mean absolute difference over pairs of finite values.
        magnitude: root mean square of the reference, likewise.
        special: pairs in which NaN or infinity stands on one side only (or with the other sign).
    """

    mean: float
    magnitude: float
    special: int = 0


@dataclass(frozen=True, slots=True)
class Scale:
    """A difference at two precisions.

    Attributes:
        single, double: at float32 and float64.
        where: output slot or site.
    """

    single: Difference
    double: Difference
    where: str = ""

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
            return "rounding"
        slope = self.slope
        if slope is None:  # a difference in float64 only
            return "between"
        return "rounding" if slope >= SLOPE_ROUNDING else "stays" if slope <= SLOPE_SEMANTIC else "between"

    def __str__(self) -> str:
        slope = "" if self.slope is None else f", slope {round(self.slope, 2) + 0.0:.2f}"
        return f"D32 {self.single.mean:.1e}, D64 {self.double.mean:.1e}{slope}"


def difference(reference: Payload, candidate: Payload) -> Difference | None:
    """How far two tensors are apart; None for integers and booleans, and for values without a common dtype or shape."""
    dtypes = reference.dtype, candidate.dtype
    if is_integer(dtypes[0]) or is_integer(dtypes[1]) or reference.bits.shape != candidate.bits.shape:
        return None
    if common_dtype(*dtypes) is None:
        return None
    s = measure(reference, candidate)
    if s.nan_both and s.nan_both == reference.bits.size:
        return None  # NaN on both sides says nothing of a distance
    finite = max(s.finite, 1)
    special = s.inf_mismatch + s.nan_reference + s.nan_candidate - 2 * s.nan_both
    return Difference(s.sum_abs / finite, math.sqrt(s.sum_reference_square / finite), special)


def worst(single: Mapping[Slot, Difference | None], double: Mapping[Slot, Difference | None]) -> Scale | None:
    """The slot that shrinks least."""
    scales = []
    for slot, one in single.items():
        other = double.get(slot)
        if one is not None and other is not None:
            scales.append(Scale(one, other, str(slot)))
    return max(scales, key=lambda s: (_RANK.index(s.nature), s.double.mean), default=None)


__all__ = ["Difference", "Nature", "Scale", "difference", "worst"]
