"""Longest common subsequences of two token sequences: exact, and with what is certain about them.

One call left unpaired without need is an origin that is not looked at, so the number of pairs is maximal,
not approximately so. Bit-parallel dynamic programming (Crochemore, Iliopoulos, Pinzon, Reid, 2001; Hyyrö,
2004) on Python's integers costs n·m/64 word operations and n·m/8 bytes whatever the number of edits, which
is why there is no edit budget here, unlike in Myers' O(ND) algorithm.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeVar

CELLS = 1 << 30
"""Largest n·m that is solved exactly: 128 MiB of bits. A size, not a numerical tolerance."""

Path = list[tuple[int, int]]
"""Pairs of positions (reference, candidate), strictly increasing in both."""

Block = tuple[range, range]
"""Positions of the reference and of the candidate that are aligned with each other."""

T = TypeVar("T", bound="Hashable | None")


def rows(reference: Sequence[int], candidate: Sequence[int]) -> list[int]:
    """Bit j of row i is 0 where the longest common subsequence of candidate[:i] grows at reference[j]."""
    positions: dict[int, int] = {}
    for j, token in enumerate(reference):
        positions[token] = positions.get(token, 0) | 1 << j
    full = (1 << len(reference)) - 1
    row = full
    result = [row]
    for token in candidate:
        hit = row & positions.get(token, 0)
        if hit:
            row = ((row + hit) | (row - hit)) & full
        result.append(row)
    return result


def cells(where: Block) -> int:
    """Size of the edit graph of a block."""
    return len(where[0]) * len(where[1])


def extremes(reference: Sequence[int], candidate: Sequence[int]) -> tuple[Path, Path]:
    """The two outermost longest common subsequences in the edit graph; every other one lies between them."""
    table = rows(reference, candidate)
    return _skipping_reference(reference, candidate, table), _skipping_candidate(reference, candidate, table)


def _skipping_reference(reference: Sequence[int], candidate: Sequence[int], table: list[int]) -> Path:
    path: Path = []
    j, i = len(reference), len(candidate)
    while i and j:
        if table[i] >> (j - 1) & 1:
            j -= 1
        elif candidate[i - 1] == reference[j - 1]:
            i, j = i - 1, j - 1
            path.append((j, i))
        else:
            i -= 1
    return path[::-1]


def _skipping_candidate(reference: Sequence[int], candidate: Sequence[int], table: list[int]) -> Path:
    def length(i: int, j: int) -> int:
        return j - (table[i] & ((1 << j) - 1)).bit_count()

    path: Path = []
    j, i = len(reference), len(candidate)
    left = length(i, j)
    while i and j and left:
        if length(i - 1, j) == left:
            i -= 1
        elif candidate[i - 1] == reference[j - 1]:
            i, j, left = i - 1, j - 1, left - 1
            path.append((j, i))
        else:
            j -= 1
    return path[::-1]


def certain(first: Path, second: Path) -> Path:
    """What every longest common subsequence has: the pairs that both outermost ones share.

    An optimal path cannot leave the region between the outermost two (each takes the outermost optimal move
    at every point), so where those meet, all meet.
    """
    shared = set(second)
    return [pair for pair in first if pair in shared]


def gaps(path: Path, where: Block) -> list[Block]:
    """What lies before, between and after the pairs of a path inside a block, if on both sides."""
    result = []
    j0, i0 = where[0].start, where[1].start
    for j, i in [*path, (where[0].stop, where[1].stop)]:
        if j > j0 and i > i0:
            result.append((range(j0, j), range(i0, i)))
        j0, i0 = j + 1, i + 1
    return result


def anchors(reference: Sequence[T], candidate: Sequence[T]) -> Path:
    """Patience matching: things that occur once on each side, as a longest increasing chain. O(n log n).

    None never matches.
    """
    count = Counter(reference), Counter(candidate)
    once = {token for token, n in count[0].items() if n == 1 == count[1][token] and token is not None}
    at = {token: i for i, token in enumerate(candidate) if token in once}
    matches = [(j, at[token]) for j, token in enumerate(reference) if token in once]
    tails: list[int] = []
    ends: list[int] = []
    previous: list[int] = []
    for index, (_, i) in enumerate(matches):
        place = bisect_left(tails, i)
        previous.append(ends[place - 1] if place else -1)
        tails[place : place + 1] = [i]
        ends[place : place + 1] = [index]
    chain: Path = []
    index = ends[-1] if ends else -1
    while index >= 0:
        chain.append(matches[index])
        index = previous[index]
    return chain[::-1]
