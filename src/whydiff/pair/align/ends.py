"""What two whole runs gave back corresponds, however many steps each took (one pass against chunks)."""

from __future__ import annotations

from dataclasses import replace

from whydiff.records import Alignment, Pair, Trace


def join_ends(alignment: Alignment, reference: Trace, candidate: Trace) -> Alignment:
    """The alignment with the two last calls paired, if both runs return once, at their end, and nothing paired that.

    `whydiff.pair.align.align` pairs within one step only; a program that enters its model several times returns in a
    later step than one that enters it once.
    """
    ends = []
    for trace, unpaired in ((reference, alignment.unpaired_reference), (candidate, alignment.unpaired_candidate)):
        returns = [call.index for call in trace.calls if call.kind == "return"]
        if len(returns) != 1 or returns[0] != len(trace.calls) - 1 or returns[0] not in unpaired:
            return alignment
        ends.append(returns[0])
    return replace(
        alignment,
        pairs=(*alignment.pairs, Pair(ends[0], ends[1], "last return")),
        unpaired_reference=tuple(n for n in alignment.unpaired_reference if n != ends[0]),
        unpaired_candidate=tuple(n for n in alignment.unpaired_candidate if n != ends[1]),
    )
