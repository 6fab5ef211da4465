"""One replay of a recorded program: what was returned, with hooks for whoever looks at something on the way.

Two programs in step are replayed by `whydiff.pair.lockstep.Lockstep`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from whydiff.capturing.adapters import Executor, Progress
from whydiff.records import Call, Event, Output, Payload, Slot, Trace

Watch = Callable[[Executor, Call], None]
"""Told of a call just before or just after it is executed, while all that it reads and writes is there."""

Outputs = Mapping[Slot, Payload]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one replay gave.

    Attributes:
        outputs: every returned value, in order.
        failed: calls that could not be executed, and why.
        stopped: the first call that could not be executed in step with another program; empty: none, or not in step.
    """

    outputs: dict[Slot, Payload]
    failed: tuple[tuple[Call, str], ...] = ()
    stopped: str = ""


def replay(
    executor: Executor,
    *,
    watch: Watch | None = None,
    before: Watch | None = None,
    until: int | None = None,
    begun: int = 0,
    progress: Progress | None = None,
    stage: str = "replay",
) -> Replayed:
    """Execute a whole recorded program once; the executor is used up.

    Args:
        executor: of a trace that can be replayed.
        watch: called after every call.
        before: called before every call.
        until: index of a call before which the replay stops (``before`` is still told of it); None: at the end.
        begun: how many calls it has behind it (`whydiff.pair.beginning`).
        progress: called with (stage, done, total).
        stage: for ``progress``.

    Raises:
        whydiff.errors.WhydiffError: a returned value is not there.
    """
    one = [executor]
    return replay_together(one, watch=watch, before=before, until=until, begun=begun, progress=progress, stage=stage)[0]


def replay_together(
    executors: Sequence[Executor],
    *,
    watch: Watch | None = None,
    before: Watch | None = None,
    until: int | None = None,
    begun: int = 0,
    brought: bool = True,
    progress: Progress | None = None,
    stage: str = "replay",
) -> tuple[Replayed, ...]:
    """Execute several replays of one trace call by call, so that leaves are widened once; see `replay`.

    Args:
        executors: of one trace, at least one; all are used up.
        brought: host copies are made of what is returned; else ``watch`` looks at it where it is, and there are no outputs.
    """
    first, *others = executors
    for other in others:
        other.share_leaves(first)
    calls = first.trace.calls
    number = returns(calls)
    outputs: list[dict[Slot, Payload]] = [{} for _ in executors]
    failed: list[list[tuple[Call, str]]] = [[] for _ in executors]
    with ExitStack() as running:
        for executor in executors:
            running.enter_context(executor.running())
        for call in calls[begun:]:
            if before is not None:
                for executor in executors:
                    before(executor, call)
            if call.index == until:
                break
            whys = first.execute_together(others, call) if others else [first.execute(call)]
            for executor, found, missed, why in zip(executors, outputs, failed, whys, strict=True):
                if why:
                    missed.append((call, why))
                if watch is not None:
                    watch(executor, call)
                if call.kind == "return" and brought:
                    for event in call.reads:
                        slot = Slot(number[call.index], event.site.slot)
                        found[slot] = executor.payload(executor.read(event))
            for executor in executors:
                executor.release(call)
            if progress is not None and call.index % 64 == 0:
                progress(stage, call.index, len(calls))
    if progress is not None:
        progress(stage, len(calls), len(calls))
    return tuple(Replayed(found, tuple(missed)) for found, missed in zip(outputs, failed, strict=True))


def returns(calls: Sequence[Call]) -> dict[int, int]:
    """Index of every call that returns → how many returned before."""
    return {call.index: number for number, call in enumerate(call for call in calls if call.kind == "return")}


def recorded_outputs(trace: Trace) -> tuple[Output, ...]:
    """What a run gave back; of a trace that does not record it, what its calls of kind ``return`` read."""
    if trace.outputs is not None:
        return tuple(trace.outputs)
    number = returns(trace.calls)
    return tuple(one for call in trace.calls for one in read_by(call, number.get(call.index, -1), trace))


def output_of(slot: Slot, event: Event, trace: Trace) -> Output:
    """One value as it was recorded, as an output."""
    payload = trace.payload(event.payload) if event.payload else None
    content = event.fingerprint if event.fingerprint and event.fingerprint.covers == "content" else None
    if payload is None and content is None:
        return Output(slot, "unreadable", "Tensor", text=event.skipped or "no fingerprint of its elements")
    return Output(slot, "numbers", "Tensor", payload=payload, spec=event.spec, fingerprint=content)


def read_by(call: Call, number: int, trace: Trace) -> Iterator[Output]:
    """The outputs that a call of kind ``return`` gives back, under the number of that return; of others nothing."""
    if call.kind == "return":
        for event in call.reads:
            yield output_of(Slot(number, event.site.slot), event, trace)
