"""Differences that are in some workers, some steps or some sequences and not in the others."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from whydiff.numbers.tolerance import (
    LOGPROB_EXPLAINED,
    LOGPROB_GROWTH,
    LOGPROB_MONOTONE,
    LOGPROB_NOISE,
    LOGPROB_TOKENS,
    LOGPROB_Z,
)
from whydiff.studies.logprobs.pairs import Array, Pairs, odds_change, spread
from whydiff.studies.logprobs.results import Padded, Result, Stale, Worker

LOG_MEDIAN_VARIANCE = 1.36
"""Variance of the logarithm of a median absolute value of n normal numbers, times n."""
EPS = float(np.finfo(np.float32).eps)
"""Stands for a difference of nothing in a ratio."""


def worker(pairs: Pairs, inside: Callable[[Pairs], tuple[Result, ...]]) -> tuple[Worker, Pairs]:
    """A minority of the workers (of the sequences, where none is named) that is off.

    Kernels that agree bit for bit in some batches and not in others make groups of nothing beside groups of rounding: where
    the others have no difference, or no worker is named, being off takes more than rounding.

    Args:
        pairs: to look at.
        inside: tests for the tokens of those that are off.
    """
    named = pairs.worker is not None and len(pairs.workers) > 1
    group = pairs.worker[pairs.sequence] if named and pairs.worker is not None else pairs.sequence
    change = odds_change(pairs)
    sizes, counts = _sizes(_at_common_places(change, group, pairs.position), group)
    known = np.flatnonzero(counts >= LOGPROB_TOKENS)
    if len(known) < 2:
        return Worker(found=False, tested=False, named=named), pairs
    typical = float(np.sort(sizes[known])[(len(known) - 1) // 2])
    least = LOGPROB_NOISE["bfloat16" if not named or typical <= EPS else "float32"]
    off = known[(sizes[known] > LOGPROB_EXPLAINED * typical) & (sizes[known] > least)]
    off = np.array([n for n in off.tolist() if _surely(sizes[n] / max(typical, 1e-30), counts[n])], np.int64)
    if not off.size or (not named and not _gap(sizes[known], off.size)):
        return Worker(found=False, named=named, size=float(sizes[known].max()), others=typical), pairs
    bad = np.isin(group, off)
    names = pairs.workers if named else pairs.ids
    result = Worker(
        found=True,
        named=named,
        names=tuple(names[n] for n in off.tolist()),
        size=spread(change[bad]),
        others=spread(change[~bad]),
        inside=inside(pairs.only(bad)),
    )
    return result, pairs.only(~bad)


def stale(pairs: Pairs) -> tuple[Stale, Pairs]:
    """A difference that grows with the step of training; the first step is left."""
    if pairs.step is None:
        return Stale(found=False, tested=False), pairs
    steps, group = np.unique(pairs.step[pairs.sequence], return_inverse=True)
    sizes, counts = _sizes(_at_common_places(odds_change(pairs), group, pairs.position), group)
    third = len(steps) // 3
    if third < 1 or counts.min() < LOGPROB_TOKENS:
        return Stale(found=False, tested=False), pairs
    first, last = float(sizes[:third].mean()), float(sizes[-third:].mean())
    growth = last / max(first, EPS)
    rank = _spearman(np.arange(len(steps)), sizes)
    tokens = int(min(counts[:third].sum(), counts[-third:].sum()))
    found = (
        last > LOGPROB_NOISE["float32"]
        and growth >= LOGPROB_GROWTH
        and rank >= LOGPROB_MONOTONE
        and _surely(growth, tokens)
    )
    result = Stale(found=found, steps=tuple(steps.tolist()), sizes=tuple(sizes.tolist()), growth=growth, rank=rank)
    return result, pairs.only(group == 0) if found else pairs


def padded(pairs: Pairs) -> tuple[Padded, Pairs]:
    """Padded sequences are off by more than rounding and those without padding are not, which are left."""
    lengths = np.bincount(pairs.sequence, minlength=len(pairs.ids))
    pads = pairs.pads if pairs.pads is not None else lengths.max() - lengths
    has = pads[pairs.sequence] > 0
    change = odds_change(pairs)
    with_, without = np.isfinite(change) & has, np.isfinite(change) & ~has
    if min(with_.sum(), without.sum()) < LOGPROB_TOKENS:
        return Padded(found=False, tested=False), pairs
    size, others = spread(change[with_]), spread(change[without])
    sizes, counts = _sizes(change, pairs.sequence)
    known = np.flatnonzero((counts > 0) & (pads[: len(counts)] > 0))
    off = float(np.mean(sizes[known] > LOGPROB_EXPLAINED / 2 * others)) if known.size else 0.0
    rank = _spearman(pads[known], sizes[known]) if known.size > 2 else 0.0
    least = int(min(with_.sum(), without.sum()))
    ratio = size / max(others, EPS)
    found = (
        size > LOGPROB_NOISE["bfloat16"]
        and ratio > LOGPROB_EXPLAINED
        and off > LOGPROB_MONOTONE
        and _surely(ratio, least)
    )
    result = Padded(
        found=found, known="tokens" if pairs.pads is not None else "lengths", size=size, others=others, rank=rank
    )
    return result, pairs.only(~has) if found else pairs


def _at_common_places(change: Array, group: Array, position: Array) -> Array:
    """The changes at positions that every group of some size reaches, else NaN; as they are where too few are common.

    Noise grows with the position, and some groups have longer sequences than others.
    """
    keep = np.isfinite(change)
    counts = np.bincount(group[keep], minlength=int(group.max()) + 1 if group.size else 1)
    furthest = np.zeros(len(counts), np.int64)
    np.maximum.at(furthest, group[keep], position[keep])
    known = counts >= LOGPROB_TOKENS
    if not known.any():
        return change
    common = np.where(keep & (position <= furthest[known].min()), change, np.nan)
    left = np.bincount(group[np.isfinite(common)], minlength=len(counts))
    return common if (left[known] >= LOGPROB_TOKENS).all() else change


def _sizes(change: Array, group: Array) -> tuple[Array, Array]:
    """Robust size of each group's changes, and how many there are."""
    keep = np.isfinite(change)
    values, group = np.abs(change[keep]), group[keep]
    counts = np.bincount(group, minlength=int(group.max()) + 1 if group.size else 1)
    order = np.lexsort((values, group))
    begins = np.cumsum(counts) - counts
    if not order.size:
        return np.zeros(len(counts)), counts
    low = np.minimum(begins + np.maximum(counts - 1, 0) // 2, order.size - 1)
    high = np.minimum(begins + counts // 2, order.size - 1)
    medians = (values[order][low] + values[order][high]) / 2
    return np.where(counts > 0, 1.4826 * medians, 0.0), counts


def _surely(ratio: float, tokens: int) -> bool:
    """Whether a ratio of two robust sizes is beyond what their errors explain."""
    if ratio <= 1 or not tokens:
        return False
    return math.log(ratio) > LOGPROB_Z * math.sqrt(2 * LOG_MEDIAN_VARIANCE / tokens)


def _gap(sizes: Array, off: int) -> bool:
    """Whether a minority is off, and nothing is in between."""
    ordered = np.sort(sizes)
    inner = float(ordered[-off - 1])
    return 2 * off < len(sizes) and float(ordered[-off]) > LOGPROB_GROWTH * inner


def _spearman(x: Array, y: Array) -> float:
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (x, y)]
    a, b = (rank - rank.mean() for rank in ranks)
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else 0.0
