"""What two runs have different sizes of (batch, length), and where the smaller run's part begins in the larger one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whydiff.capturing.adapters import Executor, executor_of
from whydiff.errors import WhydiffError
from whydiff.pair.lockstep import Lockstep
from whydiff.pair.sizes import (
    Entering,
    all_agree,
    axes_between,
    entering_reads,
    narrow,
    output_sizes,
    placed,
    same_outputs,
    taken_parts,
)
from whydiff.pair.slices import Axis
from whydiff.records import Alignment, Event, Trace


def axes_of(reference: Trace, candidate: Trace, alignment: Alignment) -> tuple[Axis, ...] | None:
    """The axes of a pair of runs, from the tensors that enter what they have in common.

    First from what both read from outside: which row of the batch (which stretch of the longer text) is the other
    run's input, bit for bit. If these have the same sizes, a run may cut, pad or pack its inputs itself: then from what
    its own ops hand to the first paired ones, if the outputs' sizes differ likewise, or if the outputs are single
    numbers and every such tensor holds its smaller counterpart.

    Returns:
        Axes with the start at which most of these tensors agree; empty if nothing has another size. None: nothing of what
        enters and leaves says which part of the larger run the smaller one is.
    """
    axes = axes_between(reference, candidate, alignment)
    outside = bool(axes)
    sizes = output_sizes(reference, candidate, alignment)
    entering = list(entering_reads(reference, candidate, alignment))
    if not axes and not sizes and same_outputs(reference, candidate, alignment):
        # what enters has the same sizes and so has what leaves: a program folds its axes, or cuts its input and its result
        entering = taken_parts(reference, candidate, alignment)
        axes = axes_between(reference, candidate, alignment, computed=True, entering=entering)
    elif not axes:
        axes = axes_between(reference, candidate, alignment, sizes or None, computed=True)
    if not axes:
        return ()
    executors = [executor_of(trace) for trace in (reference, candidate)]
    step = Lockstep(executors[0], executors[1], alignment)
    at: dict[tuple[int, int], list[tuple[Event, Event]]] = {}
    for calls, event, other in entering:
        if event.spec.shape != other.spec.shape and (not outside or event.producer == other.producer == -1):
            at.setdefault(calls, []).append((event, other))
    read = []
    if outside:
        with executors[0].running(), executors[1].running():
            read = [found for pairs in at.values() for pair in pairs if (found := _values(executors, pair))]
            apart = executors[0].apart if reference.framework == candidate.framework else None
            at_once = placed(axes, read, step.agree, apart)
        return narrow(axes, read, step.agree) if at_once is None and (not sizes or _shares(entering)) else at_once
    for call_r, call_c in step.walk(None, "look for sizes"):
        for pair in at.get((call_r.index, call_c.index), ()):
            found = _values(executors, pair)
            if found is not None:
                read.append(found)
        step.execute(call_r, call_c)
    axes = narrow(axes, read, step.agree)
    return axes if sizes or (read and all_agree(axes, read, step.agree)) else ()


def _shares(entering: Sequence[Entering]) -> bool:
    """Whether both runs are given one and the same tensor of more than one number."""
    given = ((one, other) for _, one, other in entering if one.producer == other.producer == -1 and one.spec.numel > 1)
    return any(
        one.spec.shape == other.spec.shape and None is not one.fingerprint == other.fingerprint for one, other in given
    )


def _values(executors: list[Executor], pair: tuple[Event, Event]) -> tuple[Any, Any] | None:
    """Copies of what both are now; None if a tensor was not kept: the others decide."""
    try:
        values = [executor.read(event) for executor, event in zip(executors, pair, strict=True)]
    except WhydiffError:
        return None
    ours, theirs = (executor.copy(value) for executor, value in zip(executors, values, strict=True))
    return ours, theirs
