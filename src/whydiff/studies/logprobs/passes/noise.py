"""A few tokens that are far off, and the size of the noise of all the others."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from whydiff.numbers.tolerance import (
    LOGPROB_LOWEST,
    LOGPROB_NOISE,
    LOGPROB_OUTLIER,
    LOGPROB_OUTLIERS,
    LOGPROB_SURE,
    LOGPROB_TOKENS,
)
from whydiff.studies.logprobs.pairs import Array, Pairs, log_odds, odds_change, spread
from whydiff.studies.logprobs.results import Noise, Outliers

EXAMPLES = 5
PLACES = 12
Level = Literal["none", "float32", "bfloat16", "float8", "larger"]
LEVELS: tuple[Literal["float32", "bfloat16", "float8"], ...] = ("float32", "bfloat16", "float8")


def outliers(pairs: Pairs) -> tuple[Outliers, Pairs]:
    """Tokens beyond the noise; the others are left."""
    change = _bounded_change(pairs)
    known = int(np.isfinite(change).sum())
    if known < LOGPROB_TOKENS:
        return Outliers(found=False, tested=False), pairs
    typical, far = spread(change), _far(change)
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


def _far(change: Array) -> Array:
    """Tokens beyond the noise of the others, and of float8."""
    return np.asarray(np.abs(np.nan_to_num(change)) > max(LOGPROB_OUTLIER * spread(change), LOGPROB_NOISE["float8"]))


def _bounded_change(pairs: Pairs) -> Array:
    """Change of the log-odds, also of tokens that one side alone is sure of or excludes (then at least this much)."""
    excluded = np.isneginf(pairs.reference) != np.isneginf(pairs.candidate)
    lowest = np.where(excluded, LOGPROB_LOWEST, -np.inf)
    sides = np.maximum(pairs.reference, lowest), np.maximum(pairs.candidate, lowest)
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
    largest = float(np.abs(change).max())
    level: Level = next(
        (one for one in LEVELS if size <= LOGPROB_NOISE[one] and largest <= LOGPROB_OUTLIER * LOGPROB_NOISE[one]),
        "float8" if size <= LOGPROB_NOISE["float8"] else "larger",
    )
    if _far(_bounded_change(pairs)).mean() > LOGPROB_OUTLIERS:
        level = "larger"  # most tokens agree, and too many do not
    rms = float(np.sqrt((change * change).mean()))
    deviation = float(change.std()) / math.sqrt(change.size)
    result = Noise(
        found=level == "larger",
        size=size,
        largest=largest,
        tails=rms / size if size else None,
        mean=float(change.mean()) / deviation if deviation else 0.0,
        level=level,
        allowed=LOGPROB_NOISE[LEVELS[-1] if level == "larger" else level],
        growth=_growth(change, place),
        agreement=_agreement(pairs),
        **_by_position(change, place),
    )
    return result, pairs


def _by_position(change: Array, place: Array) -> dict[str, Any]:
    """Robust sizes in positions that hold about as many tokens each."""
    begins = np.unique(np.quantile(place, np.linspace(0, 1, PLACES + 1)[:-1], method="lower"))
    which = np.searchsorted(begins, place, side="right") - 1
    if np.bincount(which, minlength=len(begins)).min() < LOGPROB_TOKENS:
        return {}
    sizes = tuple(spread(change[which == n]) for n in range(len(begins)))
    return {"places": tuple(map(int, begins)), "sizes": sizes}


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
