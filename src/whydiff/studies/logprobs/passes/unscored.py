"""Positions at the beginning that one side left at exactly 0: a prompt that it does not score."""

from __future__ import annotations

import math

import numpy as np

from whydiff.numbers.tolerance import LOGPROB_LEADING, LOGPROB_SURE, LOGPROB_Z
from whydiff.studies.logprobs.pairs import Array, Pairs
from whydiff.studies.logprobs.results import Prompt, Side


def unscored(pairs: Pairs) -> tuple[Prompt, Pairs]:
    """A run of zeros at the beginning of most sequences, on one side."""
    sequences = len(np.unique(pairs.sequence))
    for side, own, other in _sides(pairs):
        zeros = (own == 0) & (other < -LOGPROB_SURE)
        run = _leading(zeros | ((own == 0) & (other <= 0)), pairs.position)
        begun = np.unique(pairs.sequence[run & zeros])
        sizes = np.bincount(pairs.sequence[run])[begun] if begun.size else begun
        most = len(begun) >= LOGPROB_LEADING * sequences
        if begun.size and most and _rare(zeros[~run], len(begun) * int(sizes.min())):
            return (
                Prompt(
                    found=True,
                    side=side,
                    place="zeros",
                    fewest=int(sizes.min()),
                    most=int(sizes.max()),
                    sequences=len(begun),
                ),
                pairs.only(~run),
            )
    return Prompt(found=False, side="reference", place="zeros", fewest=0, most=0, sequences=0), pairs


def _rare(zeros: Array, leading: int) -> bool:
    """Whether zeros elsewhere (a distribution that was cut has some) are too few for all the leading ones to be chance."""
    rate = float(zeros.mean()) if zeros.any() else 0.0
    return bool(rate == 0 or -leading * math.log(rate) > LOGPROB_Z**2 / 2)


def _sides(pairs: Pairs) -> tuple[tuple[Side, Array, Array], ...]:
    """The side that scores the prompt, and the values of the other one first."""
    return (("reference", pairs.candidate, pairs.reference), ("candidate", pairs.reference, pairs.candidate))


def _leading(mask: Array, position: Array) -> Array:
    """The part of a mask that is one run from the first position of each sequence on."""
    begins = np.flatnonzero(position == 0)
    broken = np.cumsum(~mask)
    before = broken[begins] - ~mask[begins]
    return np.asarray(mask & (broken == np.repeat(before, np.diff(np.append(begins, len(mask))))))
