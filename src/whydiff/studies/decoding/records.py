"""What a comparison of decoding found for one way and one position, as inert records."""

from __future__ import annotations

from dataclasses import dataclass

from whydiff.records import Cause, Count, Verdict


@dataclass(frozen=True, slots=True)
class Token:
    """The scores of what follows one position, in one pass (the reference) and in pieces (the candidate).

    Attributes:
        sequence, position: place in the input, from 0.
        piece: which call of the model scored it, from 0; -1: not known.
        token: what was read there.
        verdict: of this position alone.
        different: share of the scores that differ in a bit.
        max_abs, mean_abs: absolute difference of the scores.
        single, double: mean absolute difference with both runs carried out in float32 and in float64; None if
            they could not be.
        margin: lead of the reference's first choice over its second, in its own scores.
        first: first choice of the reference and of the candidate.
    """

    sequence: int
    position: int
    piece: int
    token: int
    verdict: Verdict
    different: float
    max_abs: float
    mean_abs: float
    single: float | None
    double: float | None
    margin: float
    first: tuple[int, int]

    @property
    def flips(self) -> bool:
        """Whether the first choice is another one."""
        return self.first[0] != self.first[1]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of decoding the input.

    Attributes:
        name: of the way.
        pieces: positions that each call of the model read; empty if not known.
        verdict, reason: the most severe one of its positions.
        tokens: every position that was compared, in order.
        against: the way that its causes were looked for against; empty if they were not looked for.
        causes: of a difference that is no rounding.
        not_compared: what was left out, counted.
        notes: sentences worth reading.
    """

    name: str
    pieces: tuple[int, ...]
    verdict: Verdict
    reason: str
    tokens: tuple[Token, ...]
    against: str = ""
    causes: tuple[Cause, ...] = ()
    not_compared: tuple[Count, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def flips(self) -> tuple[Token, ...]:
        """Positions at which the first choice is another one."""
        return tuple(token for token in self.tokens if token.flips)

    def first(self, verdict: Verdict) -> Token | None:
        """The first position of a verdict."""
        return next((token for token in self.tokens if token.verdict is verdict), None)
