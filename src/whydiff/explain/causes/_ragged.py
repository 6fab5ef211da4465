"""A mean of means over unequal parts, where the other side takes one mean: by the arithmetic of both runs' losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whydiff.capturing.adapters import Executor
from whydiff.explain.case import Case
from whydiff.explain.causes._values import number
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.replay import replay
from whydiff.records import Call

_UNITS = 16


@dataclass(frozen=True, slots=True)
class Ragged:
    """One side takes the mean of its parts' means, the other one mean over all.

    Attributes:
        side: the one that takes the mean of means.
        site: of its first part.
        counts: how many labels each of its parts counts.
        mean, of_means: the two numbers, as they were returned.
    """

    side: Side
    site: str
    counts: tuple[int, ...]
    mean: float
    of_means: float


def ragged(case: Case) -> Ragged | None:
    """Which side takes a mean of means over parts that count unequally many labels; None: neither, or it cannot be told.

    Both sides' losses, weighted by their counts, must be one number over one count, and of a single number that both
    return one must be that and the other the plain mean of the parts' means, to float32 rounding.
    """
    returned = [(number(a), number(b)) for _, a, b in case.localization.returned if a.bits.size == b.bits.size == 1]
    if not returned or not case.replayable:
        return None
    if not any(_is_mean(call) for call in case.candidate.calls):
        return None
    parts = [_parts(case, side) for side in SIDES]
    if not all(parts):
        return None
    totals = [sum(count for _, count in found) for found in parts]
    means = [sum(mean * count for mean, count in found) / total for found, total in zip(parts, totals, strict=True)]
    if totals[0] != totals[1] or not _close(*means):
        return None
    for at, side in enumerate(SIDES):
        of_means = sum(mean for mean, _ in parts[at]) / len(parts[at])
        given = [(float(pair[1 - at].reshape(-1)[0]), float(pair[at].reshape(-1)[0])) for pair in returned]
        if _close(of_means, means[at]) or not any(_close(a, means[1 - at]) and _close(b, of_means) for a, b in given):
            continue
        trace = case.traces[at]
        first = next(call for call in trace.calls if _is_mean(call))
        counts = tuple(round(count) for _, count in parts[at])
        return Ragged(side=side, site=str(first.site), counts=counts, mean=means[1 - at], of_means=of_means)
    return None


def _is_mean(call: Call) -> bool:
    """Whether a call reads labels and writes two single numbers: a mean, and over how many."""
    labels = any(is_integer(event.spec.dtype) and event.spec.numel > 1 for event in call.reads)
    return call.kind == "compute" and labels and [event.spec.shape for event in call.writes] == [(), ()]


def _parts(case: Case, side: Side) -> list[tuple[float, float]]:
    """(mean, count) of every part, in order; empty where one counts nothing."""
    found: list[tuple[float, float]] = []

    def look(executor: Executor, call: Call) -> None:
        if _is_mean(call):
            mean, count = (float(number(executor.payload(executor.read(event)))) for event in call.writes)
            found.append((mean, count))

    replay(case.experiments.executor(side), watch=look)
    whole = all(count >= 1 and count == round(count) and math.isfinite(mean) for mean, count in found)
    return found if whole else []


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_UNITS * UNIT_ROUNDOFF["float32"])
