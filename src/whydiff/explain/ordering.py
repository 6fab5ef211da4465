"""A recorded program whose steps are carried out in the other side's order.

Only what writes in place is moved so: every read looks at memory as it is when it is carried out, so nothing else has to
change. ``carry-out-as`` | call | call of the other side | it is carried out where that one is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whydiff.capturing.adapters import Exchanged
from whydiff.explain.sites import call_at, sites_of
from whydiff.records import Alignment, Call, Intervention, Trace

ORDER = "carry-out-as"


def ordered(
    reference: Trace, candidate: Trace, alignment: Alignment, interventions: Sequence[Intervention]
) -> tuple[Any, dict[int, Call]]:
    """The candidate in the order of the reference, and which of its calls see other memory so: those that are moved.

    Args:
        reference, candidate, alignment: the runs.
        interventions: those named ``carry-out-as`` count.

    Raises:
        ReplayError: there is no such call.
    """
    chosen = [item for item in interventions if item.name == ORDER]
    if not chosen:
        return candidate, {}
    sites = sites_of(reference), sites_of(candidate)
    moved = {call_at(sites[1], item.target).index: call_at(sites[0], item.value).index for item in chosen}
    place = {pair.candidate: pair.reference for pair in alignment.pairs} | moved
    keys, last = list[tuple[int, int]](), -1
    for call in candidate.calls:
        last = place.get(call.index, last)
        keys.append((last, call.index))
    calls = [call for _, call in sorted(zip(keys, candidate.calls, strict=True), key=lambda pair: pair[0])]
    return Exchanged(candidate, calls), {index: candidate.calls[index] for index in moved}
