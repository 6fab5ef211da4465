"""How one side's outputs lie to the oracle: bound, precision class, correct rounding. numpy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whydiff.explain.local_test.families import ROUNDED, Oracle, smallest_step
from whydiff.explain.local_test.operation import Array
from whydiff.numbers.formats import round_to
from whydiff.numbers.metrics import values
from whydiff.numbers.pieces import PIECE, in_pieces
from whydiff.numbers.tolerance import ROUNDING_LEVEL, SAMPLE, UNIT_ROUNDOFF, local_bound_lambda
from whydiff.records import Payload

_FARTHEST = 8
"""Outputs that every sample has, because nothing differs more than they do."""


def values_at(payload: Payload, index: Array | slice) -> Array:
    """The values at flat indices, in float64."""
    return np.asarray(values(payload.bits.reshape(-1)[index], payload.dtype), dtype=np.float64)


def farthest(reference: Payload, candidate: Payload, *, above: int = SAMPLE) -> Array:
    """Flat indices of the outputs that differ most: a sample could miss the few that another value was written to.

    The one that differs most comes first; none of ``above`` outputs or fewer, of which a sample has all.
    """
    if reference.bits.size <= above:
        return np.arange(0)

    def most(ours: Array, theirs: Array) -> tuple[Array, Array]:
        apart = np.abs(ours - theirs)
        apart[np.isnan(apart)] = 0.0
        found = np.argpartition(apart, -_FARTHEST)[-_FARTHEST:] if apart.size > _FARTHEST else np.arange(apart.size)
        return found, apart[found]

    parts = in_pieces(most, reference, candidate)
    index = np.concatenate([found + number * PIECE for number, (found, _) in enumerate(parts)])
    apart = np.concatenate([size for _, size in parts])
    chosen = np.argpartition(apart, -_FARTHEST)[-_FARTHEST:] if len(parts) > 1 else np.arange(apart.size)
    return np.asarray(index[chosen[np.argsort(-apart[chosen], kind="stable")]])


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One side against the oracle, over the judged outputs that are finite.

    Attributes:
        outputs: how many were judged.
        nonfinite: inf or NaN where the oracle, in the output's range, is finite (or the other way round).
        excess: largest abs(e) / bound; above 1 the rounding bound is broken.
        over: how many outputs break it.
        spread: T, rms(e / scale).
        level: the same for a plain sequential accumulation (`whydiff.numbers.tolerance.ROUNDING_LEVEL`, without the
            factor).
        peak: largest abs(e / scale) / T; about 4 for rounding, large if few outputs are wrong.
        matches: which outputs equal the correctly rounded oracle.
        narrow: the outputs have 16 bits or fewer.
        lean: (e > 0) - (e < 0) over sqrt of their sum: one-sided errors, a hint only.
    """

    outputs: int
    nonfinite: int
    excess: float
    over: int
    spread: float
    level: float
    peak: float
    matches: Array
    lean: float
    narrow: bool = False

    @property
    def bits(self) -> float:
        """-log2 T: the precision class."""
        return -math.log2(self.spread) if self.spread > 0 else math.inf

    @property
    def match_rate(self) -> float:
        """Share of outputs that equal the correctly rounded oracle."""
        return float(np.mean(self.matches)) if self.matches.size else 1.0

    @property
    def at_rounding_level(self) -> bool:
        """Whether T is what rounding alone explains."""
        return self.spread <= ROUNDING_LEVEL * self.level

    @property
    def within_bound(self) -> bool:
        """Whether no output breaks the rounding bound."""
        return self.over == 0


def measure_side(values: Array, oracle: Oracle, dtype: str) -> Measured:
    """Judge one side's outputs.

    Args:
        values: its outputs at ``oracle.index``, exact, float64.
        oracle: from `whydiff.explain.local_test.families.oracle_of`.
        dtype: of the outputs.

    Returns:
        Measured. Bound: abs(e) <= u_out |R| + (u_acc lambda sqrt(n) + u_inner steps) S, with gamma_n = n u /
        (1 - n u) in place of lambda sqrt(n) u where that is smaller (Higham and Mary 2019; Higham 2002, lemma
        3.1).
    """
    unit = UNIT_ROUNDOFF[dtype]
    target = round_to(oracle.exact, dtype) if dtype in ROUNDED else oracle.exact
    known = np.isfinite(target)
    finite = known & np.isfinite(values)
    same_infinity = ~known & ((values == target) | (np.isnan(values) & np.isnan(target)))
    nonfinite = int(np.count_nonzero(~finite & ~same_infinity))
    x, exact = values[finite], oracle.exact[finite]
    size, scale = oracle.size[finite], oracle.scale[finite]
    if not x.size:
        return Measured(
            outputs=0,
            nonfinite=nonfinite,
            excess=0.0,
            over=0,
            spread=0.0,
            level=0.0,
            peak=0.0,
            matches=np.zeros(0, bool),
            lean=0.0,
        )
    error = x - exact
    n, u = oracle.terms, oracle.unit
    probable = local_bound_lambda(x.size) * math.sqrt(n) * u
    certain = n * u / (1 - n * u) if n * u < 1 else math.inf
    inside = (min(probable, certain) + oracle.steps * oracle.inner) * size
    allowed = unit * np.abs(exact) + inside + smallest_step(dtype)
    ratio = np.abs(error) / allowed
    relative = error / scale
    spread = float(np.sqrt(np.mean(relative**2)))
    summed = u**2 * (n / 6 * scale**2 + n / 9 * exact**2) if n > 1 else 0.0
    variance = summed + oracle.inner**2 * oracle.steps / 3 * size**2 + unit**2 / 3 * exact**2
    level = float(np.sqrt(np.mean(variance / scale**2)))
    above, below = int(np.count_nonzero(error > 0)), int(np.count_nonzero(error < 0))
    return Measured(
        outputs=int(x.size),
        nonfinite=nonfinite,
        excess=float(ratio.max()),
        over=int(np.count_nonzero(ratio > 1)),
        spread=spread,
        level=level,
        peak=float(np.abs(relative).max() / spread) if spread else 0.0,
        matches=(values == target)[finite],
        lean=(above - below) / math.sqrt(max(above + below, 1)),
        narrow=unit > UNIT_ROUNDOFF["float32"],
    )


def match_z(reference: Measured, candidate: Measured) -> float:
    """Z = (b - c) / sqrt(b + c): b outputs that only the reference rounds correctly, c only the candidate.

    McNemar's test. Positive: the candidate is the less exact one. 0 if the judged outputs differ in number.
    """
    if reference.matches.size != candidate.matches.size:
        return 0.0
    b = int(np.count_nonzero(reference.matches & ~candidate.matches))
    c = int(np.count_nonzero(candidate.matches & ~reference.matches))
    return (b - c) / math.sqrt(b + c) if b + c else 0.0
