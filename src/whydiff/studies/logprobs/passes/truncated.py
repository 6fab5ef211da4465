"""Distributions that were cut (top-k, top-p, min-p) and normalised again on one side."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from whydiff.numbers.tolerance import (
    LOGPROB_CERTAIN,
    LOGPROB_CONSTANT,
    LOGPROB_KEPT,
    LOGPROB_NUCLEUS,
    LOGPROB_NUCLEUS_WITHIN,
    LOGPROB_ONE_SIDED,
    LOGPROB_SURE,
    LOGPROB_TOKENS,
    LOGPROB_Z,
)
from whydiff.studies.logprobs.pairs import Array, Pairs
from whydiff.studies.logprobs.passes.digits import within_last_digit
from whydiff.studies.logprobs.results import Side, Truncated


def truncated(pairs: Pairs) -> tuple[Truncated, Pairs]:
    """One side's log-probabilities are higher everywhere, but for tokens that it left out."""
    sides: tuple[tuple[Side, Array, Array], ...] = (
        ("reference", pairs.reference, pairs.candidate),
        ("candidate", pairs.candidate, pairs.reference),
    )
    results = [_cut(side, own, other) for side, own, other in sides]
    found = next((one for one in results if one.found), None)
    if found is None:
        return replace(min(results, key=_wrong), found=False), pairs
    return found, pairs.only(np.zeros(len(pairs), bool))


def _wrong(result: Truncated) -> float:
    return (result.residual or 0.0) / result.before if result.before else 1.0


def _cut(side: Side, own: Array, other: Array) -> Truncated:
    outside = int((np.isneginf(own) & np.isfinite(other)).sum())
    keep = np.isfinite(own) & np.isfinite(other) & (other < -LOGPROB_SURE)
    own, other = own[keep], other[keep]
    if own.size < LOGPROB_TOKENS:
        return Truncated(found=False, tested=False, side=side)
    rise = own - other
    square, wrong = float(rise @ rise), float(rise[rise < 0] @ rise[rise < 0])
    ups, downs = int((rise > 0).sum()), int((rise < 0).sum())
    surely = ups - downs > LOGPROB_Z * math.sqrt(ups + downs)
    certain = (own > -LOGPROB_CERTAIN) & (other < math.log1p(-1e-3))
    one_sided = wrong <= LOGPROB_ONE_SIDED * square
    bounded = float(np.quantile(rise, 0.99)) < -math.log(LOGPROB_KEPT)
    nucleus = float(certain.mean()) >= LOGPROB_NUCLEUS
    found = square > 0 and surely and one_sided and bounded and (nucleus or outside > 0 or _typical(rise))
    found = found and not _constant(rise) and not within_last_digit(own, other)
    least = float(np.exp(-np.quantile(rise, 0.99)))
    bound = float(np.exp(other[certain].min())) if nucleus else None
    return Truncated(
        found=found,
        side=side,
        kept=float(np.exp(-rise).mean()),
        least=least,
        certain=float(certain.mean()),
        top_p=bound if bound is not None and abs(bound - least) < LOGPROB_NUCLEUS_WITHIN else None,
        outside=outside,
        residual=math.sqrt(wrong / own.size),
        before=math.sqrt(square / own.size),
    )


def _constant(rise: Array) -> bool:
    """Whether every token rises alike: what a cut leaves out is another share in every context."""
    middle = float(np.median(rise))
    return bool(np.abs(rise - middle).max() <= LOGPROB_CONSTANT * abs(middle))


def _typical(rise: Array) -> bool:
    """Whether most of the rises are far above those in the other direction, which are noise."""
    wrong = -rise[rise < 0]
    noise = float(np.quantile(wrong, 0.9)) if wrong.size > rise.size // 100 else 0.0
    return float(np.quantile(rise, 0.75)) > noise
