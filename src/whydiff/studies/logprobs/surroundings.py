"""What one side has around the tokens that both have: special tokens, a prompt, padding, or other tokens in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whydiff.studies.logprobs.log import Array, Log
from whydiff.studies.logprobs.results import PaddingSide, Prompt, Result, SpecialTokens, Tokenisation

Side = Literal["reference", "candidate"]


@dataclass(frozen=True, slots=True, eq=False)
class Rest:
    """One side's tokens are inside the other's.

    Attributes:
        sequence: index into the reference's ids.
        side: the one that has more.
        front, back: its tokens before and after the common ones.
        pairs: indices of the common tokens in the reference and in the candidate.
    """

    sequence: int
    side: Side
    front: Array
    back: Array
    pairs: tuple[Array, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """The common runs of two sequences of tokens; neither is inside the other.

    Attributes:
        sequence: index into the reference's ids.
        pairs: indices of the common tokens in the reference and in the candidate.
        common, longest: tokens in common, and of the longer side.
        first: place of the first token that differs.
    """

    sequence: int
    pairs: tuple[Array, Array]
    common: int
    longest: int
    first: int


def around(rests: Sequence[Rest], reference: Log, candidate: Log) -> tuple[Result, ...]:
    """What the tokens around the common ones are."""
    return tuple(one for side in ("reference", "candidate") for one in _of_side(side, rests, reference, candidate))


def _of_side(side: Side, rests: Sequence[Rest], reference: Log, candidate: Log) -> Iterator[Result]:
    own = [rest for rest in rests if rest.side == side]
    for place in ("front", "back"):
        pieces = [rest.front if place == "front" else rest.back for rest in own]
        pieces = [piece for piece in pieces if piece.size]
        if not pieces:
            continue
        sizes = [int(piece.size) for piece in pieces]
        known = reference.tokens is not None and candidate.tokens is not None
        alike = known and all(np.array_equal(piece, pieces[0]) for piece in pieces)
        one_id = known and len({token for piece in pieces for token in set(piece.tolist())}) == 1
        if one_id and len(set(sizes)) > 1:
            yield PaddingSide(
                found=True, side=side, place=place, token=int(pieces[0][0]), fewest=min(sizes), most=max(sizes)
            )
        elif alike:
            yield SpecialTokens(
                found=True, side=side, place=place, tokens=tuple(pieces[0].tolist()), sequences=len(pieces)
            )
        else:
            yield Prompt(found=True, side=side, place=place, fewest=min(sizes), most=max(sizes), sequences=len(pieces))


def tokenisation(matched: Sequence[Match], sequences: int) -> tuple[Result, ...]:
    """Sequences whose tokens differ in between."""
    if not matched:
        return ()
    longest = sum(one.longest for one in matched)
    return (
        Tokenisation(
            found=True,
            sequences=len(matched),
            of=sequences,
            common=sum(one.common for one in matched) / longest if longest else 0.0,
            first=min(one.first for one in matched),
        ),
    )
