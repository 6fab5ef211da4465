"""Which step of one run corresponds to which of the other: a resumed run begins where the other one had come to.

What a step takes up from outside (its batch, the weights as they are, a random state's numbers) says which step it is
if no other step of the run takes up the same. Runs of equally many steps correspond step by step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from whydiff.records import Call, Trace

PRELUDE = -1
"""The step of what a shifted run does before it first enters its model."""


def offset(reference: Trace, candidate: Trace) -> int:
    """How many steps further on the reference is: the candidate's step k is its step k + offset.

    The step of the longer run whose update left what the shorter one begins with, whatever its batches are; else the
    offset for which more than half of the shorter run's steps take up what only that step takes up in either run.
    0 if there is none, if step by step they have as much in common, or if both runs have equally many steps.
    """
    counts = [len({call.site.step for call in trace.calls}) for trace in (reference, candidate)]
    if counts[0] == counts[1]:
        return 0
    ours, theirs = (_telling(trace.calls) for trace in (reference, candidate))
    longer, shorter = (ours, theirs) if counts[0] > counts[1] else (theirs, ours)
    trace = reference if counts[0] > counts[1] else candidate
    begins = _left_by_updates(trace.calls, longer) & shorter.keys()
    gone_on = {longer[token] - shorter[token] for token in begins if shorter[token] == min(shorter.values())}
    if len(gone_on) == 1:
        return gone_on.pop() if counts[0] > counts[1] else -gone_on.pop()
    common = {(ours[token], theirs[token]) for token in ours.keys() & theirs.keys()}
    votes = Counter(r - c for r, c in common)
    best, most = max(votes.items(), key=lambda vote: (vote[1], -abs(vote[0])), default=(0, 0))
    return best if most > max(votes[0], min(counts) // 2) else 0


def numbering(reference: Trace, candidate: Trace) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """How far the reference is ahead (`offset`), and per call of either run its step, as the alignment counts them.

    Where the runs enter their models differently often between as many updates (micro-batches of an accumulation, looks
    at the model in between), a step is what comes before the model is entered anew after its weights were written. Where
    one run leaves steps out in between, the steps of both are known by what they take up.
    """
    ahead = offset(reference, candidate)
    if ahead:
        return ahead, _shifted(reference.calls, max(0, -ahead)), _shifted(candidate.calls, max(0, ahead))
    sides = reference.calls, candidate.calls
    entered = [tuple(call.site.step for call in calls) for calls in sides]
    counts = [len({*steps}) for steps in entered]
    if counts[0] != counts[1]:
        (ours, updates), (theirs, others) = map(_rounds, sides)
        if updates == others > 0:
            return 0, ours, theirs
        shorter = int(counts[1] < counts[0])
        given = [_telling(calls, data=True) for calls in sides]
        known = _by_data(given[1 - shorter], given[shorter], entered[shorter])
        numbers = [_numbered(calls, known if side == shorter else {}) for side, calls in enumerate(sides)]
        return 0, numbers[0], numbers[1]
    return 0, entered[0], entered[1]


def _by_data(longer: Mapping[Hashable, int], shorter: Mapping[Hashable, int], steps: Sequence[int]) -> dict[int, int]:
    """The shorter run's step → the longer one's that takes up the same, where one was left out in between; else empty.

    A step that takes up nothing of its own follows the one before it.
    """
    pairs = {(shorter[token], longer[token]) for token in longer.keys() & shorter.keys()}
    known = dict(pairs)
    found: dict[int, int] = {}
    for step in sorted({*steps}):
        found[step] = known.get(step, found.get(step - 1, step - 1) + 1)
    inside = [found[step] - found[step - 1] for step in found if step - 1 in found]
    clear = len(known) == len(pairs) > len(found) // 2 and all(one > 0 for one in inside)
    return found if clear and any(step != number for step, number in found.items()) else {}


def _numbered(calls: Sequence[Call], known: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(known.get(call.site.step, call.site.step) for call in calls)


def _shifted(calls: Sequence[Call], shift: int) -> tuple[int, ...]:
    """Steps counted on; what comes before the model is first entered is no step's."""
    first = next((n for n, call in enumerate(calls) if call.kind != "view" and call.site.scope), 0)
    return tuple(PRELUDE if n < first else call.site.step + shift for n, call in enumerate(calls))


def _rounds(calls: Sequence[Call]) -> tuple[tuple[int, ...], int]:
    """Per call, how often the model was entered anew after an update; how many there were.

    An update is what an optimizer writes, or what is written over beside modules that have read it.
    """
    found: list[int] = []
    read: set[int] = set()
    number, written, step = 0, False, 0
    for call in calls:
        if call.site.step != step:
            number, written, step = number + written, False, call.site.step
        if call.site.scope and call.site.phase == "forward":
            read.update(event.storage for event in call.reads)
        elif call.site.phase != "backward":
            by_hand = any(call.reads[at].storage in read for at in call.mutates)
            written = written or by_hand or (call.site.phase == "update" and bool(call.mutates))
        found.append(number)
    return tuple(found), number + written


def _telling(calls: Sequence[Call], *, data: bool = False) -> dict[Hashable, int]:
    """What is read in one step only, of more than one element and not made in that step → the step.

    ``data``: nothing that was written over, as weights are.
    """
    found: dict[Hashable, set[int]] = {}
    made: dict[int, int] = {}
    begun = False
    for call in calls:
        begun = begun or bool(call.site.scope) or call.site.phase == "backward"
        if call.kind == "compute" and begun and call.site.phase == "forward":
            for event in call.reads:
                outside = event.producer < 0 or made.get(event.producer) != call.site.step
                written = data and event.producer >= 0 and _writes_over(calls[event.producer])
                if outside and not written and event.fingerprint is not None and event.spec.numel > 1:
                    found.setdefault((event.spec.shape, event.fingerprint), set()).add(call.site.step)
        if begun:
            made[call.index] = call.site.step
    return {token: min(steps) for token, steps in found.items() if len(steps) == 1}


def _writes_over(call: Call) -> bool:
    return bool(call.mutates) or call.site.phase == "update"


def _left_by_updates(calls: Sequence[Call], telling: Mapping[Hashable, int]) -> set[Hashable]:
    """What tells a step and was written by an optimizer in a step before."""
    return {
        token
        for call in calls
        for event in call.reads
        if event.producer >= 0
        and calls[event.producer].site.phase == "update"
        and telling.get(token := (event.spec.shape, event.fingerprint)) == call.site.step
    }
