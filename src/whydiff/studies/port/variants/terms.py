"""Terms of sums and factors of products that one side leaves out: a residual, a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.records import Call, Trace
from whydiff.studies.port.bench import Bench, leaf_of
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.rewrites import Applied, Rewrite

Array = np.ndarray[Any, Any]
_CALLS = 12
"""Calls of a region, the nearest first, that are looked at (a size, not a tolerance)."""
_WORDS = {Role.PLUS: ("add", "sum"), Role.TIMES: ("multipl", "product")}


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Each sum and product of two computed values of one size with either of them left out, on either side."""
    for side in (0, 1):
        trace = bench.traces[side]
        roles = for_framework(trace.framework).roles
        joins = [
            call for call in bench.region(side, number) if roles(call.site.op) & _WORDS.keys() and _two(trace, call)
        ]
        for call in joins[:_CALLS]:
            role = next(role for role in _WORDS if role in roles(call.site.op))
            yield from (_hypothesis(side, trace, call, role, left) for left in (0, 1))


def _two(trace: Trace, call: Call) -> bool:
    """Whether a call joins two values as large as its result, neither of which is a weight."""
    whole = call.writes[0].spec.shape if len(call.writes) == 1 else None
    return len(call.reads) == 2 and all(
        event.spec.shape == whole and leaf_of(trace, event) is None for event in call.reads
    )


def _hypothesis(side: int, trace: Trace, call: Call, role: Role, left: int) -> Hypothesis:
    stem, whole = _WORDS[role]
    made = call.reads[left].producer
    what = f"what {trace.calls[made].site} gives" if made >= 0 else "what is given to the program"
    does = f"{stem}s {what}" if role is Role.PLUS else f"{stem}ies by {what}"
    lone, lacking = (("reference", "candidate"), ("candidate", "reference"))[side]
    said = (does, f"leaves it out of the {whole}")

    def formula(applied: Applied) -> Sequence[Array]:
        return [applied.reads[1 - left]]

    return Hypothesis(
        code="FO007",
        says=f"the {lone} {does}, the {lacking} leaves it out of the {whole}",
        said=said if side == 0 else (said[1], said[0]),
        fix=f"{'Let' if side == 0 else 'Do not let'} the candidate {stem if role is Role.PLUS else stem + 'y by'} {what}.",
        teller=side,
        mine=Rewrite(calls={call.index: formula}),
    )
