"""Pooling: where the padding stands, whether a mean counts it, the largest or the mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.numbers.pools import Pooling, others, pooled
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite

Array = np.ndarray[Any, Any]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Other ways of pooling, for the one that is nearest to the point."""
    for side in (0, 1):
        adapter = for_framework(bench.traces[side].framework)
        for call in bench.region(side, number):
            own = adapter.pooling(call)
            if own is not None:
                shapes = call.reads[0].spec.shape, call.writes[0].spec.shape
                yield from (_hypothesis(side, call, own, way) for way in others(own, *shapes))
                return


def _hypothesis(side: int, call: Call, own: Pooling, way: Pooling) -> Hypothesis:
    shape = call.reads[0].spec.shape
    return taken_for(
        "FO008",
        side,
        (own.says(shape), way.says(shape)),
        Rewrite(calls={call.index: lambda applied: [pooled(way, applied.reads[0])]}),
        says="the candidate's pooling {candidate}; the reference's {reference}",
        fix="Let the candidate's pooling do what the reference's does: it {reference}.",
    )
