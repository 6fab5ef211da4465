"""Values that belong to a token some places before or after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from whydiff.numbers.tolerance import LOGPROB_EXPLAINED, LOGPROB_FURTHEST, LOGPROB_TOKENS
from whydiff.studies.logprobs.pairs import Array, Pairs, log_odds
from whydiff.studies.logprobs.results import Prompt, Result, Shift

MOST = 16
"""Tokens of a shift that are looked for."""


def shift(pairs: Pairs) -> tuple[Shift, Pairs]:
    """The shift at which the two sides' log-odds agree best."""
    sides = [
        np.clip(np.nan_to_num(log_odds(v), nan=LOGPROB_FURTHEST), -LOGPROB_FURTHEST, LOGPROB_FURTHEST)
        for v in _values(pairs)
    ]
    found = {}
    for by in range(-MOST, MOST + 1):
        a, b = _shifted(pairs, by)
        if a.size >= LOGPROB_TOKENS:
            found[by] = _correlation(sides[0][a], sides[1][b])
    if 0 not in found:
        return Shift(found=False, tested=False), pairs
    best = max(found, key=lambda by: (found[by], -abs(by)))
    result = Shift(
        found=best != 0 and (1 - found[best]) * LOGPROB_EXPLAINED < 1 - found[0],
        by=best,
        agreement=found[best],
        before=found[0],
    )
    if not result.found:
        return Shift(found=False, by=0, agreement=found[0], before=found[0]), pairs
    a, b = _shifted(pairs, best)
    return result, pairs.only(a).with_values(candidate=pairs.candidate[b])


def without_shifted_in(results: tuple[Result, ...]) -> tuple[Result, ...]:
    """The results of the first tests; zeros that a shift put at the beginning are its own and no prompt."""
    by = next((one.by for one in results if isinstance(one, Shift) and one.found), 0)
    scored = "reference" if by > 0 else "candidate"
    return tuple(
        replace(one, found=False)
        if by and isinstance(one, Prompt) and (one.side, one.fewest, one.most) == (scored, abs(by), abs(by))
        else one
        for one in results
    )


def _values(pairs: Pairs) -> tuple[Array, Array]:
    return pairs.reference, pairs.candidate


def _shifted(pairs: Pairs, by: int) -> tuple[Array, Array]:
    """Indices of the reference and of the candidate, ``by`` places later in the same sequence."""
    size, behind = max(len(pairs) - abs(by), 0), slice(abs(by), None)
    early = np.flatnonzero(
        (pairs.sequence[:size] == pairs.sequence[behind]) & (pairs.position[behind] - pairs.position[:size] == abs(by))
    )
    late = early + abs(by)
    return (early, late) if by >= 0 else (late, early)


def _correlation(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else 0.0
