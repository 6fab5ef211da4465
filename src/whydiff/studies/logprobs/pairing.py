"""Pair the tokens of two logs: by id, then by token; what only one side has is named."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Literal

import numpy as np

from whydiff.errors import UsageError
from whydiff.records import Count
from whydiff.studies.logprobs.log import Array, Log
from whydiff.studies.logprobs.pairs import Pairs
from whydiff.studies.logprobs.results import Missing, PaddingSide, Result
from whydiff.studies.logprobs.surroundings import Match, Rest, Side, around, tokenisation

MOST_MATCHED = 2000
"""Sequences whose tokens are matched one by one; of more that differ the rest is counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Paired:
    """Pairs, what was found on the way, and what was left out (``lone`` sequences have no partner)."""

    pairs: Pairs
    results: tuple[Result, ...]
    by: Literal["id", "order"]
    not_paired: tuple[Count, ...]
    lone: int


def pair(reference: Log, candidate: Log) -> Paired:
    """Pair two logs.

    Raises:
        UsageError: no id and no token is common.
    """
    ours, theirs, by = _sequences(reference, candidate)
    lone = (("reference", len(reference.ids) - len(ours)), ("candidate", len(candidate.ids) - len(theirs)))
    counts = [Count(what="sequences", reason=f"only the {side} has them", count=n) for side, n in lone if n]
    same = _equal(reference, candidate, ours, theirs)
    pieces = [(_tokens_of(reference, ours[same]), _tokens_of(candidate, theirs[same]))]
    rests: list[Rest] = []
    matched: list[Match] = []
    left = np.flatnonzero(~same).tolist()
    for n in left[:MOST_MATCHED]:
        which = (reference, candidate, int(ours[n]), int(theirs[n]))
        found = _inside(*which) or _turned(*which) or _matched(*which)
        (rests if isinstance(found, Rest) else matched).append(found)  # type: ignore[arg-type]
        pieces.append(found.pairs)
    if len(left) > MOST_MATCHED:
        more = len(left) - MOST_MATCHED
        counts.append(Count(what="sequences", reason="their tokens differ, and enough others were matched", count=more))
    a, b = (np.concatenate([piece[side] for piece in pieces]) for side in (0, 1))
    if not a.size:
        raise UsageError(
            "No token is common to the two files.",
            where=f"{reference.source} and {candidate.source}",
            next_step="name the fields: --field id=NAME --field tokens=NAME",
        )
    order = np.argsort(a, kind="stable")
    a, b = a[order], b[order]
    keep = reference.counts[a] & candidate.counts[b]
    masked = max(reference.masked, candidate.masked, int((~keep).sum()))
    if masked:
        counts.append(Count(what="tokens", reason="masked, prompt or padding", count=masked))
    a, b = a[keep], b[keep]
    empty = np.isnan(reference.logprobs[a]), np.isnan(candidate.logprobs[b])
    unscored = empty[0] | empty[1]
    if unscored.any():
        counts.append(Count(what="tokens", reason="no log-probability on a side", count=int(unscored.sum())))
    layout = around(rests, reference, candidate)
    results = (*layout, *tokenisation(matched, len(ours)), *_missing(reference, a, empty))
    a, b = a[~unscored], b[~unscored]
    pads = np.zeros(len(reference.ids), np.int64) if any(isinstance(one, PaddingSide) for one in layout) else None
    for rest in rests if pads is not None else ():
        pads[rest.sequence] = rest.front.size + rest.back.size  # type: ignore[index]
    partner = np.full(len(reference.ids), -1)
    partner[ours] = theirs
    retold = np.zeros(len(reference.ids), bool)
    retold[[one.sequence for one in matched]] = True
    pairs = replace(_pairs(reference, candidate, (a, b), partner, pads), retold=retold if matched else None)
    return Paired(pairs=pairs, results=results, by=by, not_paired=tuple(counts), lone=lone[0][1] + lone[1][1])


def _missing(reference: Log, tokens: Array, empty: tuple[Array, Array]) -> Iterator[Missing]:
    """Values that one side alone lacks; the first token of a sequence has no probability in many tools."""
    later = ~np.isin(tokens, reference.starts)
    for side, own, other in (("reference", *empty), ("candidate", *empty[::-1])):
        lone = int((own & ~other & later).sum())
        if lone:
            yield Missing(found=True, side="reference" if side == "reference" else "candidate", tokens=lone)


def _sequences(reference: Log, candidate: Log) -> tuple[Array, Array, Literal["id", "order"]]:
    """Indices of the sequences that both have; by their order where no id is shared."""
    named = bool(reference.fields.id and candidate.fields.id)
    if reference.ids == candidate.ids:
        every = np.arange(len(reference.ids))
        return every, every, "id" if named else "order"
    where: dict[Any, list[int]] = {}
    for n, name in enumerate(candidate.ids):
        where.setdefault(name, []).append(n)
    for places in where.values():
        places.reverse()  # several samples of one prompt have its id: in the order of the file
    found = [(n, where[name].pop()) for n, name in enumerate(reference.ids) if where.get(name)]
    if not found:
        found = [(n, n) for n in range(min(len(reference.ids), len(candidate.ids)))]
        named = False
    ours, theirs = np.array(found, np.int64).reshape(-1, 2).T
    return ours, theirs, "id" if named else "order"


def _equal(reference: Log, candidate: Log, ours: Array, theirs: Array) -> Array:
    """Which pairs of sequences have the same tokens (without tokens: the same length)."""
    same = reference.lengths[ours] == candidate.lengths[theirs]
    if reference.tokens is None or candidate.tokens is None or not same.any():
        return np.asarray(same)
    a, b = _tokens_of(reference, ours[same]), _tokens_of(candidate, theirs[same])
    differ = reference.tokens[a] != candidate.tokens[b]
    lengths = reference.lengths[ours[same]]
    sequence = np.repeat(np.flatnonzero(same), lengths)
    same[sequence[differ]] = False
    return np.asarray(same)


def _tokens_of(log: Log, sequences: Array) -> Array:
    """Indices of all tokens of some sequences."""
    lengths = log.lengths[sequences]
    before = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if lengths.size else lengths
    return np.asarray(np.arange(int(lengths.sum())) + np.repeat(log.starts[:-1][sequences] - before, lengths))


def _inside(reference: Log, candidate: Log, one: int, other: int) -> Rest | None:
    """One sequence of tokens as a part of the other; without tokens: the ends are paired."""
    spans = (log.starts[n : n + 2].tolist() for log, n in ((reference, one), (candidate, other)))
    (a, a_end), (b, b_end) = spans
    shorter = min(a_end - a, b_end - b)
    longer: Side = "reference" if a_end - a > b_end - b else "candidate"
    if reference.tokens is None or candidate.tokens is None:
        at, around = max(a_end - a, b_end - b) - shorter, np.zeros(max(a_end - a, b_end - b), np.int64)
    else:
        mine, yours = reference.tokens[a:a_end], candidate.tokens[b:b_end]
        small, around = (yours, mine) if longer == "reference" else (mine, yours)
        at = _find(small, around)
    if at < 0 or not shorter:
        return None
    steps = np.arange(shorter)
    begins = (a + at, b) if longer == "reference" else (a, b + at)
    return Rest(
        sequence=one,
        side=longer,
        front=around[:at],
        back=around[at + shorter :],
        pairs=(begins[0] + steps, begins[1] + steps),
    )


def _turned(reference: Log, candidate: Log, one: int, other: int) -> Rest | None:
    """The same tokens padded at opposite ends, to the same length."""
    a, a_end = reference.starts[one : one + 2].tolist()
    b, b_end = candidate.starts[other : other + 2].tolist()
    if reference.tokens is None or candidate.tokens is None or a_end - a != b_end - b or a == a_end:
        return None
    mine, yours = reference.tokens[a:a_end], candidate.tokens[b:b_end]
    for side, left, right in (("candidate", yours, mine), ("reference", mine, yours)):
        pad = right[-1]
        others = np.flatnonzero(right != pad)
        size = right.size - 1 - int(others[-1]) if others.size else 0
        if size and (left[:size] == pad).all() and np.array_equal(left[size:], right[:-size]):
            steps = np.arange(right.size - size)
            begins = (a, b + size) if side == "candidate" else (a + size, b)
            return Rest(
                sequence=one,
                side="candidate" if side == "candidate" else "reference",
                front=left[:size],
                back=left[:0],
                pairs=(begins[0] + steps, begins[1] + steps),
            )
    return None


def _find(small: Array, around: Array) -> int:
    """Where an array is inside another one: the last place; -1: nowhere."""
    if not small.size or small.size > around.size:
        return -1
    for at in np.flatnonzero(around[: around.size - small.size + 1] == small[0])[::-1].tolist():
        if np.array_equal(around[at : at + small.size], small):
            return int(at)
    return -1


def _matched(reference: Log, candidate: Log, one: int, other: int) -> Match:
    """The longest common runs of two sequences of tokens."""
    a, a_end = reference.starts[one : one + 2].tolist()
    b, b_end = candidate.starts[other : other + 2].tolist()
    none = np.zeros(0, np.int64)
    if reference.tokens is None or candidate.tokens is None:
        return Match(sequence=one, pairs=(none, none), common=0, longest=max(a_end - a, b_end - b), first=0)
    mine, yours = reference.tokens[a:a_end].tolist(), candidate.tokens[b:b_end].tolist()
    blocks = SequenceMatcher(None, mine, yours, autojunk=False).get_matching_blocks()
    runs = [np.arange(block.size) for block in blocks]
    first = next((n for n, (x, y) in enumerate(zip(mine, yours, strict=False)) if x != y), min(len(mine), len(yours)))
    return Match(
        sequence=one,
        pairs=(
            np.concatenate([a + block.a + run for block, run in zip(blocks, runs, strict=True)]),
            np.concatenate([b + block.b + run for block, run in zip(blocks, runs, strict=True)]),
        ),
        common=sum(block.size for block in blocks),
        longest=max(len(mine), len(yours)),
        first=first,
    )


def _pairs(reference: Log, candidate: Log, tokens: tuple[Array, Array], partner: Array, pads: Array | None) -> Pairs:
    a, b = tokens
    sequence = np.searchsorted(reference.starts, a, side="right") - 1
    begins = np.flatnonzero(np.diff(sequence, prepend=-1))
    apart = np.maximum(np.diff(a, prepend=0), np.diff(b, prepend=0))  # a gap on either side is one
    place = np.cumsum(apart)
    position = place - np.repeat(place[begins], np.diff(np.append(begins, a.size)))
    worker = _of_either(reference.worker, candidate.worker, partner)
    codes: dict[Any, int] = {}
    coded = None if worker is None else np.array([codes.setdefault(name, len(codes)) for name in worker], np.int64)
    step = _of_either(reference.step, candidate.step, partner)
    numbers = None if step is None else np.array([s if _is_step(s) else np.nan for s in step], float)
    return Pairs(
        reference=reference.logprobs[a],
        candidate=candidate.logprobs[b],
        sequence=sequence,
        position=position,
        ids=reference.ids,
        pads=pads,
        step=numbers if numbers is not None and np.isfinite(numbers).all() else None,
        worker=coded,
        workers=tuple(codes),
        entropy=None if reference.entropy is None else reference.entropy[a],
    )


def _is_step(value: Any) -> bool:
    """Whether it is a number that some counter has."""
    return isinstance(value, int | float) and abs(value) < 1 << 63


def _of_either(ours: tuple[Any, ...] | None, theirs: tuple[Any, ...] | None, partner: Array) -> list[Any] | None:
    """A value of each of the reference's sequences, from the side that has more different ones."""
    moved = None if theirs is None else [theirs[n] if n >= 0 else None for n in partner.tolist()]
    if ours is None or (moved is not None and len(set(ours)) == 1):
        return moved
    return list(ours)
