"""Two runs that take the rows of a step in other portions: one batch against several micro-batches whose gradients add up.

Both come to the same weights. What a run makes of one portion alone (a loss that is printed) has no counterpart where the
other run takes more rows at once; what stands row by row has one in these rows.
"""

from __future__ import annotations

from collections.abc import Sequence

from whydiff.pair.align.entries import entries
from whydiff.pair.align.steps import numbering
from whydiff.records import Alignment, Call, Trace

Portions = tuple[frozenset[int], frozenset[int]]
"""Calls of the reference and of the candidate."""


def of_portions(reference: Trace, candidate: Trace, alignment: Alignment) -> Portions:
    """Calls that compute from a portion of a step's rows where the other run's portion has another size; ahead of gradients.

    Only in steps in which one run enters its model more often than the other, between as many updates.
    """
    _, *numbers = numbering(reference, candidate)
    sized, apart = _sized(reference, candidate, alignment, numbers)
    paired = {pair.reference for pair in alignment.pairs}, {pair.candidate for pair in alignment.pairs}
    ours, theirs = (
        _follow(trace.calls, begun | _alone(trace.calls, steps, apart, known))
        for trace, steps, begun, known in zip((reference, candidate), numbers, sized, paired, strict=True)
    )
    return ours, theirs


def in_portions(reference: Trace, candidate: Trace, alignment: Alignment) -> Portions:
    """All calls of the steps whose rows the runs take in other portions: one run carries them out more often."""
    _, *numbers = numbering(reference, candidate)
    _, apart = _sized(reference, candidate, alignment, numbers)
    ours, theirs = (frozenset(index for index, step in enumerate(steps) if step in apart) for steps in numbers)
    return ours, theirs


def _sized(
    reference: Trace, candidate: Trace, alignment: Alignment, numbers: Sequence[Sequence[int]]
) -> tuple[tuple[set[int], set[int]], set[int]]:
    """Paired calls ahead of gradients that see other sizes in steps of other portions, of either run; these steps."""
    entered = [entries(trace.calls, steps) for trace, steps in zip((reference, candidate), numbers, strict=True)]
    uneven = {n for n in entered[0].keys() & entered[1].keys() if len(entered[0][n]) != len(entered[1][n])}
    sized: tuple[set[int], set[int]] = set(), set()
    for pair in alignment.pairs if uneven else ():
        calls = reference.calls[pair.reference], candidate.calls[pair.candidate]
        shapes = [[event.spec.shape for event in (*call.reads, *call.writes)] for call in calls]
        if numbers[0][pair.reference] in uneven and shapes[0] != shapes[1] and calls[0].site.phase == "forward":
            sized[0].add(pair.reference)
            sized[1].add(pair.candidate)
    return sized, uneven & {numbers[0][index] for index in sized[0]}


def _alone(calls: Sequence[Call], numbers: Sequence[int], steps: set[int], paired: set[int]) -> set[int]:
    """Calls of modules in these steps, in entries of which nothing is paired."""
    known = {
        calls[index].site.step for index in paired if calls[index].site.scope and calls[index].site.phase == "forward"
    }
    both = zip(calls, numbers, strict=True)
    return {c.index for c, n in both if n in steps and c.site.step not in known and c.site.scope}


def _follow(calls: Sequence[Call], begun: set[int]) -> frozenset[int]:
    """These calls and what is computed from them in the same entry, ahead of any gradient."""
    found: set[int] = set()
    for call in calls:
        if call.site.phase != "forward":
            continue
        made = (event.producer for event in call.reads)
        if call.index in begun or any(at in found and calls[at].site.step == call.site.step for at in made):
            found.add(call.index)
    return frozenset(found)
