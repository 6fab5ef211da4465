"""The paired tokens of both sides, and the differences that every test looks at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.numbers.tolerance import LOGPROB_SURE

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Tokens that both sides have, in the order of the reference; only those that count.

    Attributes:
        reference, candidate: log-probabilities, float64; -inf where a side left the token out.
        sequence: which sequence, int64, as an index of ``ids``.
        position: place within the paired part of the sequence, from 0, tokens in between that only one side has
            included; int64.
        ids: names of the sequences.
        pads: padding of each sequence, the larger of both sides; None: not known.
        step: of each sequence, float64; None: not known.
        worker: of each sequence, as an index of ``workers``; None: not known.
        workers: their names.
        entropy: of the reference's distribution at each token, float64; None: not known.
        retold: bool for each of ``ids``: its tokens differ on the way, so that what follows was read in another context.
    """

    reference: Array
    candidate: Array
    sequence: Array
    position: Array
    ids: tuple[Any, ...]
    pads: Array | None = None
    step: Array | None = None
    worker: Array | None = None
    workers: tuple[Any, ...] = ()
    entropy: Array | None = None
    retold: Array | None = None

    def __len__(self) -> int:
        return len(self.reference)

    def only(self, chosen: Array) -> Pairs:
        """The tokens that are chosen (bool, or indices)."""
        return replace(
            self,
            reference=self.reference[chosen],
            candidate=self.candidate[chosen],
            sequence=self.sequence[chosen],
            position=self.position[chosen],
            entropy=None if self.entropy is None else self.entropy[chosen],
        )

    def with_values(self, *, reference: Array | None = None, candidate: Array | None = None) -> Pairs:
        """The same tokens with other log-probabilities."""
        return replace(
            self,
            reference=self.reference if reference is None else reference,
            candidate=self.candidate if candidate is None else candidate,
        )

    @property
    def log_ratio(self) -> Array:
        """log(candidate / reference) of each token; NaN where both are -inf."""
        with np.errstate(invalid="ignore"):
            return self.candidate - self.reference

    @property
    def measurable(self) -> Array:
        """Tokens whose `log_odds` mean something on both sides: finite, and not so sure that rounding hides them."""
        sides = (self.reference, self.candidate)
        return np.asarray(np.logical_and.reduce([np.isfinite(side) & (side < -LOGPROB_SURE) for side in sides]))


def log_odds(values: Array) -> Array:
    """log(p / (1 - p)) of log-probabilities.

    Noise of the logits moves it by about the same amount for likely and for unlikely tokens: its change is dz_k -
    sum(r_j dz_j), r the distribution over the other tokens, while log p changes by (1 - p) times that.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return values - np.log(-np.expm1(np.minimum(values, 0)))


def spread(values: Array) -> float:
    """Robust standard deviation: 1.4826 times the median absolute value, which is sigma for normal numbers."""
    finite = np.abs(values[np.isfinite(values)])
    return 1.4826 * float(np.median(finite)) if finite.size else 0.0


def odds_change(pairs: Pairs) -> Array:
    """Change of the `log_odds` of each measurable token, else NaN."""
    change = np.full(len(pairs), np.nan)
    keep = pairs.measurable
    change[keep] = log_odds(pairs.candidate[keep]) - log_odds(pairs.reference[keep])
    return change
