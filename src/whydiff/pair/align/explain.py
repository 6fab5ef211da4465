"""What an alignment left out, counted with reasons."""

from __future__ import annotations

from collections import defaultdict

from whydiff.records import Alignment, Call, Count, Trace

EXAMPLES = 3


def explain(alignment: Alignment, reference: Trace, candidate: Trace) -> tuple[Count, ...]:
    """Unpaired calls grouped by side, scope and op in order of first appearance (views are counted in the alignment itself).

    Args:
        alignment: made by `whydiff.pair.align.align` of these two traces.
        reference: the reference.
        candidate: the candidate.

    Returns:
        one `Count` per group; counts are calls. ``examples`` are the first sites of the group.
    """
    first = [reference.calls[n] for n in alignment.unpaired_reference]
    second = [candidate.calls[n] for n in alignment.unpaired_candidate]
    return (
        *_unpaired("reference", "candidate", first, [reference.calls[pair.reference] for pair in alignment]),
        *_unpaired("candidate", "reference", second, [candidate.calls[pair.candidate] for pair in alignment]),
    )


def _unpaired(side: str, other: str, calls: list[Call], paired: list[Call]) -> list[Count]:
    steps = {call.site.step for call in paired}
    scopes = {call.site.scope for call in paired}
    groups: dict[tuple[str, str, str], list[Call]] = defaultdict(list)
    for call in calls:
        if call.site.step not in steps:
            reason = f"nothing of its step has a counterpart in the {other}"
        elif call.site.scope not in scopes:
            reason = f"nothing of its scope has a counterpart in the {other}"
        else:
            reason = f"its scope has a counterpart in the {other}, this call has none"
        groups[call.site.scope, call.site.op, reason].append(call)
    return [
        Count(
            what=f"{side} calls {scope}:{op}",
            reason=reason,
            count=len(group),
            examples=tuple(str(call.site) for call in group[:EXAMPLES]),
        )
        for (scope, op, reason), group in groups.items()
    ]
