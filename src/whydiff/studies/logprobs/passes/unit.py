"""Numbers that are no natural logarithms of probabilities on one side."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from whydiff.numbers.tolerance import LOGPROB_BASE, LOGPROB_EXPLAINED, LOGPROB_TOKENS, LOGPROB_Z
from whydiff.studies.logprobs.pairs import Array, Pairs, spread
from whydiff.studies.logprobs.passes.digits import within_last_digit
from whydiff.studies.logprobs.results import Side, Unit

Kind = Literal["", "probabilities", "negative"]
BASES: tuple[tuple[Literal["base 2", "base 10"], float], ...] = (
    ("base 2", 1 / math.log(2)),
    ("base 10", 1 / math.log(10)),
)


def unit(pairs: Pairs) -> tuple[Unit, Pairs]:
    """Probabilities, negative logarithms, another base, or a factor."""
    kinds = [_kind(side) for side in (pairs.reference, pairs.candidate)]
    if any(kinds):
        return _converted(pairs, kinds)
    x, y = pairs.reference, pairs.candidate
    keep = pairs.measurable
    x, y = x[keep], y[keep]
    if x.size < LOGPROB_TOKENS:
        return Unit(found=False, tested=False), pairs
    factor = float(np.median(y / x))
    room = -np.expm1(x)  # noise of a log-probability is (1 - p) times that of the logits
    before, residual = spread((y - x) / room), spread((y - factor * x) / (factor * room))
    error = 1.2533 * spread(y / x - factor) / math.sqrt(x.size)
    unrelated = spread((y - np.median(y)) / (factor * room))  # what a constant in its place would leave
    found = residual * LOGPROB_EXPLAINED < min(before, unrelated) and abs(factor - 1) > LOGPROB_Z * error
    found = found and not within_last_digit(x, y)
    side: Side = "candidate"
    kind: Literal["base 2", "base 10", "scaled", ""] = "scaled" if found else ""
    for name, value in BASES if found else ():
        for which, wanted in (("candidate", value), ("reference", 1 / value)):
            if abs(factor / wanted - 1) < LOGPROB_BASE:
                kind, side = name, "candidate" if which == "candidate" else "reference"
    result = Unit(found=found, kind=kind, side=side, factor=factor, residual=residual, before=before)
    return result, pairs.with_values(candidate=pairs.candidate / factor) if found else pairs


def _kind(values: Array) -> Kind:
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() < 0 or not finite.any():
        return ""
    return "probabilities" if finite.max() <= 1 else "negative"


def _converted(pairs: Pairs, kinds: list[Kind]) -> tuple[Unit, Pairs]:
    sides = []
    for values, kind in zip((pairs.reference, pairs.candidate), kinds, strict=True):
        with np.errstate(divide="ignore"):
            sides.append(np.log(values) if kind == "probabilities" else -values if kind == "negative" else values)
    which: Side = "candidate" if kinds[1] else "reference"
    found = kinds[0] != kinds[1]
    kind = kinds[1] or kinds[0]
    return Unit(found=found, kind=kind, side=which), pairs.with_values(reference=sides[0], candidate=sides[1])
