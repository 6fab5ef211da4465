"""Which of several equally long alignments is right: the one whose pairs have most in common.

Keys alone cannot say *which* of three equal calls in a scope was inserted. Among the alignments that leave
the fewest calls unpaired, the one with the greatest sum of evidence is chosen; if that ties too, the
earliest calls pair.
"""

from __future__ import annotations

import json
from collections.abc import Hashable

import numpy as np

from whydiff.pair.align.sequence import Block, Path
from whydiff.pair.align.side import Side, intern, output_value

CELLS = 1 << 23
"""Largest tied region that is searched (64 MiB of scores). A size, not a numerical tolerance."""

KINDS = 11
"""Kinds of evidence. Within a pair each outweighs all weaker ones together: kind k counts 2**k."""


def best(reference: Side, candidate: Side, where: Block) -> Path:
    """Alignment of a region with the most pairs and, among those, the most evidence.

    Needleman and Wunsch (1970) without gap cost, a numpy row at a time: O(n·m).
    """
    first, second = (
        [_facts(side, n) for n in positions] for side, positions in zip((reference, candidate), where, strict=True)
    )
    keys = intern([reference.keys[j] for j in where[0]], [candidate.keys[i] for i in where[1]])
    kinds = [_numbers([facts[kind] for facts in first], [facts[kind] for facts in second]) for kind in range(KINDS)]
    tokens = np.asarray(keys[0])
    pair = min(len(first), len(second)) << KINDS
    scores = np.zeros((len(second) + 1, len(first) + 1), dtype=np.int64)
    for i, key in enumerate(keys[1]):
        common = sum((left == right[i]).astype(np.int64) << kind for kind, (left, right) in enumerate(kinds))
        scores[i + 1, 1:] = np.where(tokens == key, scores[i, :-1] + pair + common, 0)
        scores[i + 1] = np.maximum.accumulate(np.maximum(scores[i + 1], scores[i]))
    return [(where[0][j], where[1][i]) for j, i in _back(scores)]


def _back(scores: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Path:
    path: Path = []
    i, j = scores.shape[0] - 1, scores.shape[1] - 1
    while i and j:
        here = scores[i, j]
        if here == scores[i, j - 1]:
            j -= 1
        elif here == scores[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            path.append((j, i))
    return path[::-1]


def _facts(side: Side, at: int) -> tuple[Hashable | None, ...]:
    """Kinds of evidence about a call, weakest first; None is evidence for nothing."""
    call = side.calls[at]
    uses = (side.takers[at], side.company[at]) if call.reads else ((), ())  # what is made of no tensor is its arguments
    return (
        uses[0] or None,
        uses[1] or None,
        call.target,
        json.dumps(call.arguments, sort_keys=True, default=repr),
        tuple(read.producer < 0 for read in call.reads),
        tuple(len(event.spec.shape) for event in call.writes),
        tuple(event.spec.shape for event in call.writes),
        tuple((event.spec.shape, event.spec.dtype) for event in call.writes),
        side.weights[at] or None,
        side.states[at] or None,
        output_value(call),
    )


def _numbers(
    first: list[Hashable | None], second: list[Hashable | None]
) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], list[int]]:
    """Equal numbers for equal facts; -1 and -2, which differ, for None."""
    left, right = intern(first, second)
    return (
        np.asarray([-1 if fact is None else n for n, fact in zip(left, first, strict=True)]),
        [-2 if fact is None else n for n, fact in zip(right, second, strict=True)],
    )
