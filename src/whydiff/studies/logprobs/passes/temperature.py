"""Another temperature on one side, from the log-probabilities of the chosen tokens alone.

With q = p**a / Z, a = 1 / T, in every context log q = a log p - log Z. Z differs from context to context and is not
known, so a line through the points is biased. Two facts help.

- If the tokens were drawn from p, then w = q / p has the mean 1 in every context, whatever the context is. So w - 1 is
  uncorrelated with log Z, and a = E[(log q + m)(w - 1)] / E[log p (w - 1)] for every constant m (the method of moments;
  w - 1 is the instrument). m is chosen for the smallest variance. If they were drawn from q, w = p / q serves.
- In log-odds L = log(p / (1 - p)): L_q = a L_p + (a - 1) H, where H is the Renyi entropy of order a of the other tokens,
  0 <= H <= log(vocabulary). Each token so bounds a, and a pair that breaks many bounds has no temperature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from whydiff.numbers.tolerance import (
    LOGPROB_COMMON,
    LOGPROB_CONSTANT,
    LOGPROB_EXPLAINED,
    LOGPROB_HOTTEST,
    LOGPROB_LOWEST,
    LOGPROB_TOKENS,
    LOGPROB_VOCABULARY,
    LOGPROB_Z,
)
from whydiff.studies.logprobs.pairs import Array, Pairs, log_odds
from whydiff.studies.logprobs.passes.digits import within_last_digit
from whydiff.studies.logprobs.results import Side, Temperature

ROUNDS = 32


@dataclass(frozen=True, slots=True)
class _Fit:
    slope: float
    error: float
    sampled: Side
    off: float
    """How far the mean of the ratio is from 1, in standard errors."""


def temperature(pairs: Pairs) -> tuple[Temperature, Pairs]:
    """The temperature that explains the difference, if one does; then no pair is left."""
    keep = pairs.measurable & (pairs.reference > LOGPROB_LOWEST) & (pairs.candidate > LOGPROB_LOWEST)
    x, y = pairs.reference[keep], pairs.candidate[keep]
    if x.size < LOGPROB_TOKENS:
        return Temperature(found=False, tested=False), pairs
    odds = log_odds(x), log_odds(y)
    before = _rms(odds[1] - odds[0])
    fits = [one for one in (_fit(x, y, "reference"), _fit(x, y, "candidate")) if one is not None]
    fits = [one for one in fits if 1 / LOGPROB_HOTTEST < one.slope < LOGPROB_HOTTEST]
    if not fits:
        return Temperature(found=False, before=before), pairs
    best = min(fits, key=lambda one: _rms(_broken(*odds, one.slope)))
    drawn = min(fits, key=lambda one: one.off)
    if _rms(_broken(*odds, drawn.slope)) * LOGPROB_EXPLAINED < before:
        best = drawn
    residual = _rms(_broken(*odds, best.slope))
    low, high = _bounds(*odds, best.slope)
    value = 1 / best.slope
    error = best.error / best.slope**2
    found = residual * LOGPROB_EXPLAINED < before and abs(value - 1) > max(LOGPROB_Z * error, LOGPROB_CONSTANT)
    found = found and not within_last_digit(x, y)
    result = Temperature(
        found=found,
        value=value,
        error=error,
        low=low,
        high=high,
        sampled=best.sampled if best.off < LOGPROB_Z else "",
        residual=residual,
        before=before,
    )
    return result, pairs.only(np.zeros(len(pairs), bool)) if found else pairs


def _fit(x: Array, y: Array, sampled: Side) -> _Fit | None:
    """The slope by the method of moments, if the tokens were drawn from a side."""
    ratio = np.expm1(y - x if sampled == "reference" else x - y)
    below = float(x @ ratio)
    if not below or not math.isfinite(below):
        return None
    slope, weights = float(y @ ratio) / below, ratio * ratio
    for _ in range(ROUNDS):
        middle = float(weights @ (y - slope * x)) / float(weights.sum())
        slope, last = float((y - middle) @ ratio) / below, slope
        if abs(slope - last) <= 1e-9 * abs(slope):
            break
    errors = (y - slope * x - middle) * ratio
    deviation = float(ratio.std()) / math.sqrt(x.size)
    return _Fit(
        slope=slope,
        error=float(errors.std()) * math.sqrt(x.size) / abs(below),
        sampled=sampled,
        off=abs(float(ratio.mean())) / deviation if deviation else math.inf,
    )


def _broken(reference: Array, candidate: Array, slope: float) -> Array:
    """By how much each token's log-odds are outside of what any distribution allows at this slope."""
    rise = candidate - slope * reference
    edges = sorted((0.0, (slope - 1) * LOGPROB_VOCABULARY))
    outside: Array = np.maximum(edges[0] - rise, 0) + np.maximum(rise - edges[1], 0)
    return outside


def _bounds(reference: Array, candidate: Array, slope: float) -> tuple[float | None, float | None]:
    """The temperatures that single tokens allow, but for the `LOGPROB_COMMON` share's complement."""
    clear = np.abs(reference) > 1
    ratio = candidate[clear] / reference[clear]
    rare = ratio[reference[clear] < 0]
    likely = ratio[reference[clear] > 0]
    ends = (_upper(rare), _lower(likely)) if slope > 1 else (_upper(likely), _lower(rare))
    slopes = [None if end is None or end <= 0 else 1 / end for end in ends]
    return slopes[1], slopes[0]


def _upper(values: Array) -> float | None:
    return float(np.quantile(values, (1 + LOGPROB_COMMON) / 2)) if values.size else None


def _lower(values: Array) -> float | None:
    return float(np.quantile(values, (1 - LOGPROB_COMMON) / 2)) if values.size else None


def _rms(values: Array) -> float:
    """Root mean square of the `LOGPROB_COMMON` share of the values."""
    squares = np.sort(values * values)[: max(1, math.floor(LOGPROB_COMMON * values.size))]
    return math.sqrt(float(squares.mean()))
