"""Origins that are alike: where there are very many, some of every kind are examined and stand for the rest.

What an origin's examination costs (the scaling test alone, the local test) does not depend on how many there are, so ten
thousand of them would take hours for a handful of answers. Up to `EVERY` origins, each is examined.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whydiff.explain.case import Case
from whydiff.pair.lockstep import matched
from whydiff.records import Call, Comparison, Event, Origin

EVERY = 256
"""Up to so many origins, none stands for another."""
EACH = 8
"""How many of a kind are examined, the first ones; fewer of each where there are many kinds."""
KINDS = 1024
"""Of how many kinds one is examined at least, those met first."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Which origins are examined, and which those stand for.

    Attributes:
        examined: positions in the localization, ascending.
        left: position of every other origin → the examined ones of its kind; none where there are too many kinds.
    """

    examined: tuple[int, ...] = ()
    left: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


def alike(case: Case) -> Alike:
    """The origins of a case by what they are; worked out once."""
    return case.shared("alike", lambda: _alike(case))


def _alike(case: Case) -> Alike:
    origins = case.localization.origins
    if len(origins) <= EVERY:
        return Alike(tuple(range(len(origins))))
    kinds: dict[str, list[int]] = {}
    for index, origin in enumerate(origins):
        kinds.setdefault(kind_of(case, origin), []).append(index)
    each = max(1, min(EACH, 2 * EVERY // len(kinds)))
    chosen = {kind: tuple(found[:each]) for kind, found in list(kinds.items())[:KINDS]}
    examined = sorted(index for found in chosen.values() for index in found)
    left = {
        index: chosen.get(kind, ()) for kind, found in kinds.items() for index in found[len(chosen.get(kind, ())) :]
    }
    return Alike(tuple(examined), left)


def kind_of(case: Case, origin: Origin) -> str:
    """What origins of one kind have in common.

    The op of either side, what it reads and writes (dtypes and shapes), its arguments but for numbers, which of them
    differ, and the change: of which kind the origin is, the decade of its relative difference, and whether NaN or
    infinity stands on one side only.
    """
    calls = [
        trace.calls[index] if 0 <= index < len(trace.calls) else None
        for trace, index in zip(case.traces, origin.calls, strict=True)
    ]
    numbers = [_numbers(call.arguments) if call is not None else [] for call in calls]
    return json.dumps(
        [
            origin.kind,
            len(origin.leaves),
            [site.op for site in origin.region],
            [_asked(call) for call in calls if call is not None],
            [i for i, pair in enumerate(zip(*numbers, strict=False)) if pair[0] != pair[1]],
            _change(origin.comparison),
        ],
        default=repr,
    )


def _asked(call: Call) -> list[Any]:
    looks = [[(event.spec.dtype, event.spec.shape) for event in events] for events in (call.reads, call.writes)]
    return [call.target, _without_numbers(call.arguments), *looks]


def _change(comparison: Comparison) -> list[Any]:
    apart = comparison.value("rel_l2")
    decade = math.floor(math.log10(apart)) if apart is not None and 0 < apart < math.inf else None
    return [comparison.status, decade, bool(comparison.value("nan_mismatch")), bool(comparison.value("inf_mismatch"))]


def _without_numbers(arguments: Any) -> Any:
    """An argument template in which every number is only its type."""
    if isinstance(arguments, Mapping):
        return {str(key): _without_numbers(value) for key, value in arguments.items()}
    if isinstance(arguments, (list, tuple)):
        return [_without_numbers(value) for value in arguments]
    return type(arguments).__name__ if _is_number(arguments) else arguments


def last_examined(case: Case) -> int | None:
    """The last call of the reference at which the value of an examined origin is looked at; None: there is none."""
    by_calls = {case.localization.origins[index].calls for index in alike(case).examined}
    last = None
    for call_r, call_c in case.paired():
        made = {made_by(call_r, call_c, *events) for events in matched(call_r, call_c, "reads")}
        if by_calls & {*made, (call_r.index, call_c.index)}:
            last = call_r.index
    return last


def made_by(call_r: Call, call_c: Call, er: Event, ec: Event) -> tuple[int, int]:
    """The calls that made two values; the reading ones where no call did."""
    return (er.producer if er.producer >= 0 else call_r.index, ec.producer if ec.producer >= 0 else call_c.index)


def _numbers(arguments: Any) -> Sequence[Any]:
    """The numbers of an argument template, in their order."""
    if isinstance(arguments, Mapping):
        return [found for value in arguments.values() for found in _numbers(value)]
    if isinstance(arguments, (list, tuple)):
        return [found for value in arguments for found in _numbers(value)]
    return [arguments] if _is_number(arguments) else []


def _is_number(argument: Any) -> bool:
    return isinstance(argument, (int, float)) and not isinstance(argument, bool)
