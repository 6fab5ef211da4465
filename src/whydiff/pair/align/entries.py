"""Which entry into the model of one run begins with the rows of which of the other's, where both enter it several times a step.

Two micro-batches against four: the second of two begins where the third of four does. The others of the four have no
counterpart of their own, as all but the first have none where the other run takes the rows at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from whydiff.records import Call

Numbers = Sequence[int]
"""Per call of a run, its step as `whydiff.pair.align.steps.numbering` counts them."""


def entries(calls: Sequence[Call], numbers: Numbers) -> dict[int, list[int]]:
    """Step as the alignment counts them → the steps as they were recorded in which the model was entered, in order."""
    found: dict[int, dict[int, None]] = defaultdict(dict)
    for call, number in zip(calls, numbers, strict=True):
        if call.site.scope and call.site.phase == "forward":
            found[number][call.site.step] = None
    return {number: list(steps) for number, steps in found.items()}


def by_entry(sides: Sequence[Sequence[Call]], numbers: Sequence[Numbers]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The numbers anew: equal are those of entries that begin with the same rows, and of what comes behind the last.

    Changed are steps in which one run enters its model a whole number of times as often as the other, which does so more
    than once.
    """
    found = [entries(calls, own) for calls, own in zip(sides, numbers, strict=True)]
    times = {n: [len(one[n]) for one in found] for n in found[0].keys() & found[1].keys()}
    uneven = {n for n, (a, b) in times.items() if a != b and min(a, b) > 1 and max(a, b) % min(a, b) == 0}
    most = 1 + max((max(times[n]) for n in uneven), default=0)
    if not uneven:
        return tuple(numbers[0]), tuple(numbers[1])
    both = []
    for side in (0, 1):
        known: dict[int, Mapping[int, int]] = {}
        for n in uneven:
            apart = max(times[n]) // times[n][side]
            known[n] = {step: at * apart for at, step in enumerate(found[side][n])}
        both.append(_counted(sides[side], numbers[side], known, most))
    return both[0], both[1]


def _counted(
    calls: Sequence[Call], numbers: Numbers, known: Mapping[int, Mapping[int, int]], most: int
) -> tuple[int, ...]:
    """Per call, its step times ``most`` and which entry of it it belongs to; the last place is behind all entries."""
    last: dict[int, int] = {}
    for call, number in zip(calls, numbers, strict=True):
        if call.site.scope or call.site.phase == "backward":
            last[number] = call.index
    return tuple(
        number * most
        + (
            0
            if number not in known
            else most - 1
            if call.index > last[number]
            else known[number].get(call.site.step, 0)
        )
        for call, number in zip(calls, numbers, strict=True)
    )
