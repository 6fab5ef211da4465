"""Arguments that choose among a few ways of computing: an axis, a direction, the form of an activation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.capturing.adapters import for_framework
from whydiff.records import Call, Intervention
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis, taken_for
from whydiff.studies.port.rewrites import Rewrite

_CALLS = 12
"""Calls of a region, the nearest first, whose choices are tried (a size, not a tolerance)."""


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Each call of the region with each other choice."""
    for side in (1, 0):
        adapter = for_framework(bench.traces[side].framework)
        calls = [call for call in bench.region(side, number) if adapter.choices(call)]
        for call in calls[:_CALLS]:
            for which, values in adapter.choices(call).items():
                own = _given(call, which)
                name = adapter.argument(call.target, which)
                changed = (value for value in values if not _same(call, own, value))
                yield from (_other(side, call, (which, name), own, value) for value in changed)


def _given(call: Call, which: int | str) -> Any:
    args, kwargs = call.arguments
    return args[which] if isinstance(which, int) else kwargs.get(which)


def _same(call: Call, own: Any, value: Any) -> bool:
    rank = len(call.reads[0].spec.shape) if call.reads else 0
    negative = isinstance(own, int) and own < 0 and isinstance(value, int)
    return bool((own + rank if negative else own) == value)


def _other(side: int, call: Call, argument: tuple[int | str, str], own: Any, value: Any) -> Hypothesis:
    which, name = argument
    given, other = (f"{call.site.op} with {name} = {'its default' if x is None else x}" for x in (own, value))
    return taken_for(
        "FO008",
        side,
        (given, other),
        Rewrite(edits=(Intervention("set-argument", str(call.site), (which, value)),)),
        says="the candidate computes {candidate}, the reference as {reference}",
        fix="Compute as the reference does in the candidate: {reference}.",
    )
