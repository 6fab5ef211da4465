"""Images made larger or smaller: the grid, the kernel, the edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.numbers.grids import Resampling, others, resampled
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Applied, Rewrite

Array = np.ndarray[Any, Any]


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Other ways of resampling, for the one that is nearest to the point."""
    for side in (0, 1):
        adapter = for_framework(bench.traces[side].framework)
        for call in bench.region(side, number):
            own = adapter.resampling(call)
            if own is not None:
                yield from (_hypothesis(side, call, own, way) for way in others(own))
                return


def _hypothesis(side: int, call: Call, own: Resampling, way: Resampling) -> Hypothesis:
    def formula(applied: Applied) -> Sequence[Array]:
        return [resampled(way, applied.reads[0], applied.call.writes[0].spec.shape)]

    return taken_for(
        "FO008",
        side,
        (str(own), str(way)),
        Rewrite(calls={call.index: formula}),
        says="the candidate resamples {candidate}, the reference {reference}",
        fix="Resample as the reference does in the candidate: {reference}.",
    )
