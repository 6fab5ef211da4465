"""An argument that one change has at several places of a loop, where Python was given numbers in between.

Once a changed argument has moved what a program comes to, every number that leaves the program later differs, and an
argument at a later place may be made of it (`View.same_numbers_left`). Where the same op is given the same change
again, and nothing but this change differs before, that is asked by experiment: with the reference's arguments at the
earlier places the candidate must give Python the numbers that the reference gave it. Then the later place either
follows from the earlier ones or is the same change once more, and in both cases nothing else lies behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.arguments import as_given, given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._view import Finding
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.pair.replay import replay
from whydiff.records import Call, Fingerprint, Intervention

_SET, _TRANSPLANT = "set-argument", "replace-op"


def repeated(case: Case, found: Mapping[int, Finding]) -> dict[int, Finding]:
    """Findings whose op of the reference was put in, with the reference's argument where it is an earlier place's change.

    Args:
        case: the pair of runs.
        found: position of an origin → what explains it.
    """
    origins = case.localization.origins
    told = dict(found)
    asked: dict[tuple[Intervention, ...], bool] = {}
    for index in sorted(found, key=lambda i: origins[i].calls):
        if [item.name for item in told[index].interventions] != [_TRANSPLANT]:
            continue
        before = [i for i, origin in enumerate(origins) if _precedes(origin.calls, origins[index].calls)]
        mine = _argument(case, origins[index].calls)
        if mine is None or not before or not all(_is_it(case, told, i, index, mine) for i in before):
            continue
        changed = [item for i in before for item in told[i].interventions]
        # those of one step come with no number in between: what was found of the first of them holds of all
        upto = _last_given(case.candidate.calls, origins[index].calls[1])
        known = tuple(item for i, item in zip(before, changed, strict=True) if origins[i].calls[1] < upto)
        if known not in asked:
            asked[known] = bool(known) and _gives_the_same(case, known, origins[index].calls)
        if asked[known]:
            told[index] = replace(told[index], interventions=(mine,))
    return told


def _precedes(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] < other[0] or one[1] < other[1]


def _argument(case: Case, at: tuple[int, int]) -> Intervention | None:
    """The reference's argument for the candidate's call, if it alone differs; as `View.give_argument`."""
    if min(at) < 0:
        return None
    ours, theirs = case.calls_at(at)
    changed = given_otherwise(ours, theirs, for_framework(case.reference.framework).default)
    return as_given(ours, theirs, changed[0]) if len(changed) == 1 else None


def _is_it(case: Case, told: Mapping[int, Finding], earlier: int, index: int, mine: Intervention) -> bool:
    """Whether an origin before is the same change of the same argument of the same op, and is put back as that."""
    one, this = told.get(earlier), told[index]
    if one is None or (one.code, one.key) != (this.code, this.key) or [i.name for i in one.interventions] != [_SET]:
        return False
    calls = (case.candidate.calls[case.localization.origins[i].calls[1]] for i in (earlier, index))
    return len({call.target for call in calls}) == 1 and one.interventions[0].value[0] == mine.value[0]


def _last_given(calls: Sequence[Call], before: int) -> int:
    """Index of the last call before another one that gave Python a number; -1: none did."""
    return max((call.index for call in calls[:before] if call.gives), default=-1)


def _gives_the_same(case: Case, changed: tuple[Intervention, ...], at: tuple[int, int]) -> bool:
    """Whether the candidate gives Python the reference's numbers until then, under some changes."""
    wanted = [_prints(call) for call in case.reference.calls[: at[0]] if call.gives]
    given: list[tuple[Any, ...]] = []

    def before(executor: Executor, call: Call) -> None:
        if call.gives and call.index < at[1]:
            bits = (executor.payload(executor.read(event)).bits for event in call.reads)
            given.append(tuple(fingerprint_bytes(one).lanes for one in bits))

    try:
        replay(case.experiments.executor("candidate", interventions=changed), before=before, until=at[1])
    except WhydiffError:
        return False
    return bool(wanted) and given == wanted


def _prints(call: Call) -> tuple[Any, ...]:
    prints: list[Fingerprint | None] = [event.fingerprint for event in call.reads]
    return tuple(one.lanes if one is not None and one.covers == "content" else None for one in prints)
