"""Draws that take the state of their generator as a value (JAX's keys), and the values of those states in a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from whydiff.capturing.adapters import Executor, Role, for_framework
from whydiff.pair.replay import replay
from whydiff.records import Call, Event, Trace


def takes_a_key(trace: Trace, call: Call) -> bool:
    """Whether an op draws from a key, which is the first value that it reads."""
    return Role.DRAWS in for_framework(trace.framework).roles(call.site.op) and bool(call.reads)


def draws(trace: Trace, call: Call) -> bool:
    """Whether an op draws random numbers, from a generator or from a key."""
    return bool(call.rng) or takes_a_key(trace, call)


def keys(executor: Executor, calls: Iterable[Call]) -> Mapping[int, Any]:
    """Index of a call → the key that it draws from in a replay, which is used up."""
    return _seen(executor, calls, lambda call: executor.read(call.reads[0]))


def numbers(executor: Executor, calls: Iterable[Call]) -> Mapping[int, Any]:
    """Index of a call that draws → the numbers that came of it in a replay, which is used up."""
    return _seen(executor, calls, lambda call: executor.written(call.writes[0]))


def _seen(executor: Executor, calls: Iterable[Call], value: Callable[[Call], Any]) -> Mapping[int, Any]:
    """Index of a call → a value, as it is right after the call."""
    wanted = {call.index for call in calls}
    found: dict[int, Any] = {}

    def look(executor: Executor, call: Call) -> None:
        if call.index in wanted:
            found[call.index] = executor.copy(value(call))

    if wanted:
        replay(executor, watch=look, until=max(wanted) + 1)
    return found


def only_for_keys(trace: Trace, event: Event) -> bool:
    """Whether what is made of a value are numbers that are drawn, and keys that lead there, and nothing else."""
    reached, drawn = {event.storage}, False
    for call in trace.calls[max(event.producer, 0) :]:
        if call.kind == "view" or not any(read.storage in reached for read in call.reads):
            continue
        if takes_a_key(trace, call):
            drawn = True
            continue
        if call.kind != "compute" or any("int" not in one.spec.dtype for one in call.writes):
            return False
        reached |= {one.storage for one in call.writes}
    return drawn
