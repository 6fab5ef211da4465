"""Heads of an attention kernel: which of them share keys and values, and which features are rotated together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call, Event
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Applied, Formula, Rewrite, argument

Array = np.ndarray[Any, Any]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Heads of keys and values in another order; features of queries and keys in pairs of neighbours or of halves."""
    for side in (0, 1):
        framework = bench.traces[side].framework
        for call in bench.region(side, number):
            if Role.ATTENTION in for_framework(framework).roles(call.site.op) and len(call.reads[0].spec.shape) == 4:
                yield from _shared(side, call, framework)
                yield from _rotated(bench, side, number, call)
                return


def _shared(side: int, call: Call, framework: str) -> Iterator[Hypothesis]:
    heads = call.reads[0].spec.shape[1]
    places = [argument(framework, call, name) for name in ("key", "value")]
    reads = [place["$read"] for place in places if isinstance(place, dict)]
    if len(reads) != 2 or any(call.reads[i].spec.shape[1] != heads for i in reads):
        return
    for kept in range(2, heads):
        if heads % kept == 0:
            near, apart = f"{heads // kept} neighbouring query heads", f"every {kept}th query head"
            share = "the same keys and values"
            each = np.arange(heads)
            tiled, repeated = (each % kept) * (heads // kept), each // (heads // kept)
            for own, other, order in ((near, apart, tiled), (apart, near, repeated)):
                said = (f"gives {own} {share}", f"gives {other} {share}")
                yield _hypothesis(side, said, {call.index: _ordered(reads, order)})


def _ordered(reads: Sequence[int], order: Array) -> Formula:
    def formula(applied: Applied) -> Sequence[Array]:
        return applied.again(instead={place: applied.reads[place][:, order] for place in reads})

    return formula


def _rotated(bench: Bench, side: int, number: int, call: Call) -> Iterator[Hypothesis]:
    framework, width = bench.traces[side].framework, call.reads[0].spec.shape[-1]
    region = {one.index: one for one in bench.region(side, number)}
    made: list[set[int]] = []
    for name in ("query", "key", "value"):
        place = argument(framework, call, name)
        made.append(_sources(region, call.reads[place["$read"]]) if isinstance(place, dict) else set())
    rotated = made[0] | made[1]
    trace = bench.traces[side]
    fits = all(trace.calls[index].writes[0].spec.shape[-1] % width == 0 for index in rotated)
    if width % 2 or not made[0] or not made[1] or rotated & made[2] or not fits:
        return
    halves, pairs = "rotates a head's halves together", "rotates neighbouring features together"
    apart = np.arange(width).reshape(-1, 2).T.reshape(-1)
    for own, other, order in ((halves, pairs, apart), (pairs, halves, np.argsort(apart))):
        yield _hypothesis(side, (own, other), dict.fromkeys(rotated, _features(order)))


def _sources(region: dict[int, Call], event: Event) -> set[int]:
    """Calls outside of a region that a value in it is made from."""
    waiting, seen, found = [event.producer], set[int](), set[int]()
    while waiting:
        index = waiting.pop()
        if index < 0 or index in seen:
            continue
        seen.add(index)
        if index not in region:
            found.add(index)
        else:
            waiting += [read.producer for read in region[index].reads]
    return found


def _features(order: Array) -> Formula:
    def formula(applied: Applied) -> Sequence[Array]:
        (made, *_) = applied.again()
        return [made.reshape(*made.shape[:-1], -1, len(order))[..., order].reshape(made.shape)]

    return formula


def _hypothesis(side: int, said: tuple[str, str], calls: dict[int, Callable[[Applied], Sequence[Any]]]) -> Hypothesis:
    return taken_for(
        "FO008",
        side,
        said,
        Rewrite(calls=calls),
        says="in the attention the candidate {candidate}, the reference {reference}",
        fix="Let the candidate's attention do what the reference's does: it {reference}.",
    )
