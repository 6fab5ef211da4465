"""Parts of a batch that count unequally much: one side averages each on its own, the other takes one mean over all.

Told by the numbers from which backward passes begin. Where the first parts' losses are each other's times the mean count over
the part's own, on the side that averages each part by itself every part weighs as if it counted as much as the others. Its
losses and the gradients that begin from them are then multiplied by its count over the mean count, and nothing else is
changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Executor, Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._values import number, one_number
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.tolerance import SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.pair.replay import replay
from whydiff.records import Call, Event, Intervention, Trace

_UPSTREAM = 24
_MOST = 256
"""Parts of one run. A size, not a tolerance."""
_SIZES = "sizes of dimension"

Kind = tuple[str, str, int]
"""What is counted, by which op it is read, and where."""


@dataclass(frozen=True, slots=True)
class Uneven:
    """One side's losses are means over parts of unequal counts.

    Attributes:
        side: which averages each part on its own.
        site: of its first part's loss.
        counted: what its parts count.
        counts: of the first parts that belong together.
        interventions: the candidate's parts weigh as the reference's do.
        put_in: the other way round; empty where the reference has one batch.
    """

    side: Side
    site: str
    counted: str
    counts: tuple[float, ...]
    interventions: tuple[Intervention, ...]
    put_in: tuple[Intervention, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A number that is differentiated: its value, its first form as a single number, the first gradients of it, counts."""

    loss: float
    top: Event
    gradients: tuple[Event, ...]
    counts: Mapping[Kind, float]


def uneven(case: Case) -> Uneven | None:
    """What one side averages part by part and the other all at once; None: nothing, or it cannot be told."""
    return case.shared("parts of unequal counts", lambda: _uneven(case))


def is_behind_all(case: Case) -> bool:
    """Whether parts of unequal counts are all that makes the outputs differ: then no op is another one."""
    found = uneven(case)
    if found is None:
        return False
    apart = case.experiments.apart_if_told(found.interventions)
    return apart is not None and apart <= SCALING_FLOOR


def _uneven(case: Case) -> Uneven | None:
    if not case.replayable:
        return None
    begun = [[*_begun(trace)] for trace in case.traces]
    sizes = [len(one) for one in begun]
    if min(sizes) == 0 or max(sizes) < 2 or max(sizes) > _MOST or max(sizes) % min(sizes):
        return None
    try:
        parts = [_parts(case, side, one) for side, one in zip(SIDES, begun, strict=True)]
    except WhydiffError:
        return None
    if sizes[0] == sizes[1]:
        return next((found for m in _divisors(sizes[0]) for at in (0, 1) if (found := _both(parts, at, m))), None)
    return _one_batch(parts, int(sizes[1] > sizes[0]))


def _divisors(n: int) -> Iterator[int]:
    return (m for m in range(2, n + 1) if n % m == 0)


def _both(parts: Sequence[Sequence[_Part]], at: int, m: int) -> Uneven | None:
    """Both sides take the parts one by one, and one of them weighs the first m by their counts."""
    own, other = parts[at], parts[1 - at]
    for kind, counts in _countings(own):
        first = counts[:m]
        expected = (math.fsum(first) / m / count for count in first)
        ratios = [a.loss / b.loss if b.loss else math.nan for a, b in zip(own[:m], other[:m], strict=True)]
        if len({*first}) > 1 and all(one_number(a, b) for a, b in zip(expected, ratios, strict=True)):
            return _found(parts, at, m, kind, counts)
    return None


def _one_batch(parts: Sequence[Sequence[_Part]], at: int) -> Uneven | None:
    """One side takes the whole batch at once, the other in parts whose means it averages."""
    own, other = parts[at], parts[1 - at]
    m = len(own) // len(other)
    for kind, counts in _countings(own):
        total = math.fsum(counts[:m])
        mean = math.fsum(part.loss * m * count / total for part, count in zip(own[:m], counts[:m], strict=True))
        if len({*counts[:m]}) > 1 and one_number(mean, other[0].loss) and other[0].counts.get(kind) == total:
            return _found(parts, at, m, kind, counts)
    return None


def _found(parts: Sequence[Sequence[_Part]], at: int, m: int, kind: Kind, counts: Sequence[float]) -> Uneven:
    means = [math.fsum(counts[n : n + m]) / m for n in range(0, len(counts), m) for _ in range(m)]
    weights = [count / mean for count, mean in zip(counts, means, strict=True)]
    return Uneven(
        side=SIDES[at],
        site=str(parts[at][0].top.site.at("")),
        counted=kind[0],
        counts=tuple(counts[:m]),
        interventions=_weighed(parts[1], weights if at else [1 / weight for weight in weights]),
        put_in=_weighed(parts[0], [1 / weight for weight in weights] if at else weights),
    )


def _weighed(parts: Sequence[_Part], factors: Sequence[float]) -> tuple[Intervention, ...]:
    """Every part's loss, and the gradients that begin from it, times a factor; none where a side does not have the parts."""
    if len(parts) != len(factors):
        return ()
    return tuple(
        Intervention("scale", str(event.site), factor)
        for part, factor in zip(parts, factors, strict=True)
        for event in (part.top, *part.gradients)
    )


def _countings(parts: Sequence[_Part]) -> Iterator[tuple[Kind, list[float]]]:
    """Every kind of count that all parts have: what counts, then sizes."""
    for kind in sorted(parts[0].counts, key=lambda kind: kind[0].startswith(_SIZES)):  # sizes say the least
        counts = [part.counts.get(kind, 0.0) for part in parts]
        if all(counts):
            yield kind, counts


def _begun(trace: Trace) -> Iterator[tuple[Call, tuple[Event, ...]]]:
    """(What makes a number that is differentiated, the first gradients that its backward pass makes)."""
    roles = for_framework(trace.framework).roles
    first: dict[int, list[Event]] = {}
    for call in trace.calls:
        if call.site.phase == "backward" and call.kind == "compute":
            for event in call.reads:
                first.setdefault(event.producer, []).append(call.writes[0])
    for call in trace.calls:
        alone = len(call.reads) == len(call.writes) == 1 and call.site.phase == "forward" and call.index in first
        if alone and Role.SHAPE_ONLY in roles(call.site.op) and call.reads[0].producer >= 0 and _is_one(call.writes[0]):
            yield trace.calls[call.reads[0].producer], tuple(first[call.index])


def _is_one(event: Event) -> bool:
    return event.spec.numel == 1


def _parts(case: Case, side: Side, begun: Sequence[tuple[Call, tuple[Event, ...]]]) -> list[_Part]:
    trace = case.trace(side)
    leading = {loss.index: upstream(trace, [loss], _UPSTREAM) for loss, _ in begun}
    wanted = {call.index for calls in leading.values() for call in calls}
    losses: dict[int, float] = {}
    counted: dict[int, dict[Kind, float]] = {}

    def look(executor: Executor, call: Call) -> None:
        if call.index in leading:
            losses[call.index] = float(number(executor.payload(executor.read(call.writes[0]))).reshape(-1)[0])
        if call.index in wanted:
            counted[call.index] = dict(_counted(executor, call))

    replay(case.experiments.executor(side), watch=look)
    found = []
    for loss, gradients in begun:
        counts: dict[Kind, float] = {}
        for call in leading[loss.index]:
            for kind, count in counted.get(call.index, {}).items():
                counts.setdefault(kind, count)
        found.append(_Part(losses.get(loss.index, math.nan), _top(trace, loss), gradients, counts))
    return found


def _top(trace: Trace, call: Call) -> Event:
    """The first single number that a loss is made of: what a program reads out of it on the way follows."""
    while True:
        made = [e for e in call.reads if e.producer >= 0 and _is_one(e) and not e.uninitialised]
        if any(not _is_one(event) for event in call.reads) or len(made) != 1:
            return call.writes[0]
        call = trace.calls[made[0].producer]


def upstream(trace: Trace, calls: Sequence[Call], most: int) -> list[Call]:
    """The calls and what leads to them, nearest first, at most so many."""
    found: dict[int, Call] = {}
    waiting = list(calls)
    while waiting and len(found) < most:
        call = waiting.pop(0)
        if call.index not in found:
            found[call.index] = call
            waiting += [trace.calls[event.producer] for event in call.reads if event.producer >= 0]
    return list(found.values())


def _counted(executor: Executor, call: Call) -> Iterator[tuple[Kind, float]]:
    """What may be counted of what a call reads: labels, what a mask keeps, sizes; and what it says it has counted."""
    for at, event in enumerate(call.reads):
        if event.spec.numel > 1 and (event.spec.dtype == "bool" or is_integer(event.spec.dtype)):
            values = number(executor.payload(executor.read(event)))
            kept = values != 0 if event.spec.dtype == "bool" else values >= 0
            yield ("entries that count", call.site.op, at), float(np.count_nonzero(kept))
        elif event.spec.numel > 1 and event.spec.dtype in UNIT_ROUNDOFF:
            values = number(executor.payload(executor.read(event)))
            if np.isin(values, (0.0, 1.0)).all():
                yield ("entries that count", call.site.op, at), float(values.sum())
        for dimension, size in enumerate(event.spec.shape):
            yield (f"{_SIZES} {dimension}", call.site.op, at), float(size)
    if len(call.writes) == 2 and all(map(_is_one, call.writes)) and call.reads:
        count = float(number(executor.payload(executor.read(call.writes[1]))).reshape(-1)[0])
        if count >= 1 and count == round(count):
            yield ("labels that count", call.site.op, -1), count
