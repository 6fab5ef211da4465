"""Images made larger or smaller: the grid, the kernel, the edge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.numbers.grids import Resampling, others, resampled
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis
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
    said = (str(own), str(way)) if side == 0 else (str(way), str(own))

    def formula(applied: Applied) -> Sequence[Array]:
        return [resampled(way, applied.reads[0], applied.call.writes[0].spec.shape)]

    return Hypothesis(
        code="FO008",
        says=f"the candidate resamples {said[1]}, the reference {said[0]}",
        said=said,
        fix=f"Resample as the reference does in the candidate: {said[0]}.",
        teller=side,
        mine=Rewrite(calls={call.index: formula}),
    )
