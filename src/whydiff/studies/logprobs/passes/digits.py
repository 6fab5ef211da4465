"""Numbers that one side keeps in few digits: what was cut off is no difference of the distributions."""

from __future__ import annotations

import numpy as np

from whydiff.numbers.tolerance import ARTIFACT_UNITS, LOGPROB_CONSTANT, UNIT_ROUNDOFF
from whydiff.studies.logprobs.pairs import Array

DECIMALS = 12
"""Decimal digits after the point that are looked for."""


def within_last_digit(reference: Array, candidate: Array) -> bool:
    """Whether every difference is within the last digit, decimal or binary, that one of the sides keeps.

    Args:
        reference, candidate: finite log-probabilities of the same tokens, float64.
    """
    apart = np.abs(candidate - reference)
    return any(bool((apart <= _last(side)).all()) for side in (reference, candidate))


def _last(values: Array) -> Array:
    """The size of the last digit that all numbers of a side need."""
    for decimals in range(DECIMALS):
        steps = values * 10.0**decimals
        if (np.abs(steps - np.round(steps)) <= UNIT_ROUNDOFF["float64"] * ARTIFACT_UNITS * np.abs(steps)).all():
            return np.full(values.shape, 10.0**-decimals * (1 + LOGPROB_CONSTANT))
    share, exponent = np.frexp(values)
    kept = next((bits for bits in range(53) if (np.ldexp(share, bits) % 1 == 0).all()), 53)
    last: Array = ARTIFACT_UNITS * np.ldexp(1.0, exponent - kept)
    return last
