"""Which tokens only one side has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from whydiff.records import Verdict
from whydiff.report.words import count, listed, percent
from whydiff.studies.logprobs.results.base import SIDES, Result, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens(Result):
    """The same tokens stand before or after every sequence of one side.

    Attributes:
        side, place: where they are.
        tokens: ids.
        sequences: how many have them.
    """

    test: ClassVar[str] = "special tokens"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = (
        "send the engine's token ids to the trainer and tokenise nothing twice (add_special_tokens=False); a token "
        "that only one side reads before the others changes every probability"
    )
    side: Side
    place: Literal["front", "back"]
    tokens: tuple[int, ...]
    sequences: int

    def says(self) -> str:
        """See `Result`."""
        ids = listed(map(str, self.tokens), 4)
        end = "before" if self.place == "front" else "after"
        return f"only the {SIDES[self.side]} has token {ids} {end} its sequences ({count(self.sequences, 'sequence')})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Result):
    """One side has positions that the other does not score: the prompt before the response.

    Attributes:
        side: the one that has more.
        place: where; ``zeros``: positions that both have, and one side left at exactly 0.
        fewest, most: tokens of a sequence.
        sequences: how many have them.
    """

    test: ClassVar[str] = "prompt positions"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = (
        "give the loss mask of the response to both sides (--field mask=NAME or prompt=NAME), and average over it"
    )
    side: Side
    place: Literal["front", "back", "zeros"]
    fewest: int
    most: int
    sequences: int

    def says(self) -> str:
        """See `Result`."""
        range_ = str(self.most) if self.fewest == self.most else f"{self.fewest} to {self.most}"
        what = f"{range_} more positions" + (" at the end" if self.place == "back" else " (the prompt)")
        if self.place == "zeros":
            other = "trainer" if self.side == "reference" else "engine"
            return (
                f"only the {SIDES[self.side]} scores the first {range_} positions (the prompt); the {other} has 0 there"
            )
        return f"the {SIDES[self.side]} has {what} in {count(self.sequences, 'sequence')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddingSide(Result):
    """One side has padding that the other lacks, or has at the other end.

    Attributes:
        side, place: where it is.
        token: the padding's id.
        fewest, most: tokens of a sequence that has some.
    """

    test: ClassVar[str] = "padding side"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = "leave padding out of both files, or give the attention mask (--field mask=NAME)"
    side: Side
    place: Literal["front", "back"]
    token: int
    fewest: int
    most: int

    def says(self) -> str:
        """See `Result`."""
        end = "left" if self.place == "front" else "right"
        return f"the {SIDES[self.side]} is padded on the {end} (token {self.token}, {self.fewest} to {self.most} a sequence)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenisation(Result):
    """Sequences with the same id have other tokens.

    Attributes:
        sequences, of: how many differ, of how many.
        common: share of their tokens that could be paired.
        first: place of the first token that differs, over all of them.
    """

    test: ClassVar[str] = "tokenisation"
    verdict: ClassVar[Verdict] = Verdict.INCOMPARABLE
    advice: ClassVar[str] = (
        "send token ids from the engine to the trainer; text that is tokenised again gives other tokens"
    )
    sequences: int
    of: int
    common: float
    first: int

    def says(self) -> str:
        """See `Result`."""
        return (
            f"the tokens differ in {self.sequences} of {count(self.of, 'sequence')}, from position {self.first} (from 0) on "
            f"({percent(self.common)} of them in common)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing(Result):
    """Tokens after the first one have a log-probability on one side only (NaN or null on the other).

    Attributes:
        side: the one that lacks them.
        tokens: how many.
    """

    test: ClassVar[str] = "missing values"
    verdict: ClassVar[Verdict] = Verdict.INCONCLUSIVE
    advice: ClassVar[str] = "look for NaN in that side's logits, or for positions that it does not score"
    side: Side
    tokens: int

    def says(self) -> str:
        """See `Result`."""
        return f"the {SIDES[self.side]} has no number for {count(self.tokens, 'token')} that the other side scores"
