"""A few tokens that are far off, and the size of the noise of all the others."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from whydiff.numbers.tolerance import LOGPROB_NOISE, LOGPROB_OUTLIER, LOGPROB_OUTLIERS, LOGPROB_SURE, LOGPROB_TOKENS
from whydiff.studies.logprobs.pairs import Array, Pairs, log_odds, odds_change, spread
from whydiff.studies.logprobs.results import Noise, Outliers

EXAMPLES = 5
Level = Literal["none", "float32", "bfloat16", "float8", "larger"]
LEVELS: tuple[Literal["float32", "bfloat16", "float8"], ...] = ("float32", "bfloat16", "float8")


def outliers(pairs: Pairs) -> tuple[Outliers, Pairs]:
    """Tokens beyond the noise; the others are left."""
    change = _bounded_change(pairs)
    known = int(np.isfinite(change).sum())
    if known < LOGPROB_TOKENS:
        return Outliers(found=False, tested=False), pairs
    typical = spread(change)
    far = np.abs(np.nan_to_num(change)) > max(LOGPROB_OUTLIER * typical, LOGPROB_NOISE["float8"])
    number = int(far.sum())
    found = 0 < number <= LOGPROB_OUTLIERS * known
    order = np.argsort(-np.abs(np.where(far, change, 0)))[: min(EXAMPLES, number)].tolist()
    result = Outliers(
        found=found,
        tokens=number,
        of=known,
        size=float(np.nanmax(np.abs(change))),
        typical=typical,
        examples=tuple((pairs.ids[pairs.sequence[n]], int(pairs.position[n]), float(change[n])) for n in order),
        clustered=float((far[1:] & far[:-1] & (pairs.position[1:] > 0)).sum()) / max(number, 1),
    )
    return result, pairs.only(~far) if found else pairs


def _bounded_change(pairs: Pairs) -> Array:
    """Change of the log-odds, also of tokens that one side alone is sure of (then at least this much)."""
    sides = pairs.reference, pairs.candidate
    unsure = np.logical_or(*(side < -LOGPROB_SURE for side in sides)) & np.isfinite(sides[0]) & np.isfinite(sides[1])
    change = np.full(len(pairs), np.nan)
    a, b = (log_odds(np.minimum(side[unsure], -LOGPROB_SURE)) for side in sides)
    change[unsure] = b - a
    return change


def noise(pairs: Pairs) -> tuple[Noise, Pairs]:
    """The size of what is left, against what each precision explains."""
    if not len(pairs):
        return Noise(found=False, tested=False), pairs
    if np.array_equal(pairs.reference, pairs.candidate):
        return Noise(found=False, level="none", size=0.0, allowed=0.0, agreement=1.0), pairs
    change = odds_change(pairs)
    keep = np.isfinite(change)
    change, place = change[keep], pairs.position[keep]
    if not change.size:
        difference = pairs.log_ratio
        change, place = difference[np.isfinite(difference)], pairs.position[np.isfinite(difference)]
    if not change.size:
        return Noise(found=True, level="larger"), pairs
    size = spread(change) or float(np.sqrt((change * change).mean()))
    level: Level = next((one for one in LEVELS if size <= LOGPROB_NOISE[one]), "larger")
    rms = float(np.sqrt((change * change).mean()))
    deviation = float(change.std()) / math.sqrt(change.size)
    result = Noise(
        found=level == "larger",
        size=size,
        tails=rms / size if size else None,
        mean=float(change.mean()) / deviation if deviation else 0.0,
        level=level,
        allowed=LOGPROB_NOISE[LEVELS[-1] if level == "larger" else level],
        growth=_growth(change, place),
        agreement=_agreement(pairs),
    )
    return result, pairs


def _growth(change: Array, place: Array) -> float | None:
    """Robust size in the last third of the positions over that in the first."""
    edges = np.quantile(place, (1 / 3, 2 / 3))
    first, last = change[place <= edges[0]], change[place > edges[1]]
    if min(first.size, last.size) < LOGPROB_TOKENS or not spread(first):
        return None
    return spread(last) / spread(first)


def _agreement(pairs: Pairs) -> float | None:
    keep = pairs.measurable
    if keep.sum() < LOGPROB_TOKENS:
        return None
    found = float(np.corrcoef(log_odds(pairs.reference[keep]), log_odds(pairs.candidate[keep]))[0, 1])
    return found if math.isfinite(found) else None
