"""Activations: each call of the reference that is one is tried as every other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor
from whydiff.explain.activations import ACTIVATIONS
from whydiff.explain.causes import activation
from whydiff.records import Call
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite
from whydiff.studies.port.weights import numbers

Array = np.ndarray[Any, Any]
_CALLS = 8
"""Calls of a region, the nearest first, that are looked at (a size, not a tolerance)."""


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Other activations, on whichever side the region has one as a single call."""
    for side in (0, 1):
        wanted = {call.index: call for call in bench.region(side, number) if _alone(call)}
        wanted = dict([*wanted.items()][:_CALLS])
        for call, own in _known(bench, side, wanted):
            yield from (_other(side, call, own, name, form) for name, form in ACTIVATIONS.items() if name != own)


def _alone(call: Call) -> bool:
    return len(call.reads) == 1 == len(call.writes) and call.reads[0].spec.shape == call.writes[0].spec.shape


def _known(bench: Bench, side: int, wanted: dict[int, Call]) -> list[tuple[Call, str]]:
    """Calls whose result is one activation of what they read, in float64."""
    found: list[tuple[Call, str]] = []
    read: dict[int, Array] = {}

    def before(executor: Executor, call: Call) -> None:
        if call.index in wanted:
            read[call.index] = numbers(executor.payload(executor.read(call.reads[0]))).reshape(-1)

    def after(executor: Executor, call: Call) -> None:
        if call.index in wanted:
            one = activation(read[call.index], numbers(executor.payload(executor.written(call.writes[0]))).reshape(-1))
            if one is not None:
                found.append((call, one[0]))

    if wanted:
        bench.first.programs[side].run(before=before, watch=after, until=max(wanted) + 1)
    return found


def _other(side: int, call: Call, own: str, name: str, form: Callable[[Array], Array]) -> Hypothesis:
    return taken_for(
        "FO001",
        side,
        (own, name),
        Rewrite(calls={call.index: lambda applied: [np.asarray(form(applied.reads[0]))]}),
        says="the candidate applies {candidate}, the reference {reference}",
        fix="Let the candidate apply {reference}, as the reference does.",
    )
