"""Ranks' values put together, calls executed on other values, and how far outputs lie apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor
from whydiff.errors import ReplayError
from whydiff.locate.ranked import Seen, Tie, wide
from whydiff.pair.shards import Relation, norm, presumed
from whydiff.records import Call, Event, Payload, Slot

Outputs = Mapping[Slot, Payload]


def applied(tool: Executor, call: Call, given: Mapping[Any, Any]) -> list[Any]:
    """What a call gives on other values, laid out as those that it read.

    Raises:
        ReplayError: a value is missing or has another shape.
    """
    for event in call.reads:
        if event.site not in given or not tool.stand_in(event, given[event.site]):
            raise ReplayError("A call cannot be given this value.", where=str(event.site))
    reads = [tool.read(event) for event in call.reads]
    found = list(tool.apply(call, reads))
    tool.release(call)
    return found or [reads[i] for i in call.mutates]


def together(parts: Sequence[Payload], relation: Relation | None) -> Payload | None:
    """Ranks' payloads as one; None: they are not one, or replicas differ."""
    if relation is None:
        return None
    first, scale = parts[0], relation.scale
    if relation.layout == "replicated":
        nans = first.bits.dtype.kind == "f"
        same = all(np.array_equal(first.bits, other.bits, equal_nan=nans) for other in parts)
        bits = first.bits if same else None
    elif relation.layout == "split":
        bits = np.concatenate([payload.bits for payload in parts], axis=relation.axis)
    else:
        bits = first.bits
        total = sum((wide(payload) for payload in parts[1:]), start=wide(first)) * scale
        return Payload(total, "float64") if first.dtype != "float32" else Payload(total.astype(np.float32), "float32")
    if bits is None:
        return None
    if scale == 1:
        return Payload(bits, first.dtype)
    if first.dtype not in ("float32", "float64"):
        return Payload(wide(Payload(bits, first.dtype)) * scale, "float64")
    return Payload((bits * np.asarray(scale, bits.dtype)).astype(bits.dtype), first.dtype)


def joined(executor: Executor, parts: Sequence[Payload], relation: Relation | None, rounding: Any, one: Seen) -> Any:
    """What ranks would make of their results, as a value: terms are added in the ranks' order, in the dtype they have."""
    if relation is None or relation.layout != "partial":
        whole = together(parts, relation)
        if whole is None:
            raise ReplayError("What ranks made of equal values is not equal.")
        return executor.adopt_foreign(whole)
    values = [executor.adopt_foreign(payload) for payload in parts]
    total = values[0]
    for value in values[1:]:
        total = total + value
    if rounding is not None:
        total = executor.adopt_foreign(rounding(one, executor.payload(total)))
    return total * relation.scale if relation.scale != 1 else total


def looked(tool: Executor, value: Any, written: Event, event: Event) -> Any:
    """What an event shows of a value that a call wrote."""
    ours, theirs = written.spec, event.spec
    if (ours.shape, ours.strides, ours.offset) == (theirs.shape, theirs.strides, theirs.offset):
        return value
    payload = tool.payload(value)
    step = payload.bits.itemsize
    memory = np.ascontiguousarray(payload.bits)
    dense = tuple(s // step for s in memory.strides)
    if dense != ours.strides and ours.strides and memory.size:
        order = np.argsort([-s for s in ours.strides], kind="stable")
        memory = np.ascontiguousarray(memory.transpose(order))
    begin = theirs.offset - ours.offset
    flat = memory.reshape(-1)[begin:]
    bits = np.lib.stride_tricks.as_strided(flat, theirs.shape, [s * step for s in theirs.strides])
    return tool.adopt_foreign(Payload(np.ascontiguousarray(bits), payload.dtype))


def overwrite(executor: Executor, change: tuple[Event, Any] | None) -> None:
    """Put a value in an event's place, if there is one to put.

    Raises:
        ReplayError: it cannot be put there.
    """
    if change is not None and not executor.overwrite(*change) and not executor.stand_in(*change):
        raise ReplayError("A value cannot be put in the place of this one.", where=str(change[0].site))


def as_presumed(tie: Tie) -> Relation | None:
    """How ranks would make a value up, by its shapes."""
    return presumed(tie.shared.reference.spec.shape, [event.spec.shape for event in tie.shared.ranks.values()])


def far(reference: Outputs, candidate: Outputs) -> float:
    """The largest difference of an output, as a part of its own size (2-norms).

    Infinite where an output is missing on one side, has another shape, or is not finite in the same way.
    """
    if reference.keys() != candidate.keys():
        return math.inf
    worst = 0.0
    for slot, ours in reference.items():
        a, b = wide(ours), wide(candidate[slot])
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return math.inf
        finite = np.isfinite(a)
        if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return math.inf
        size, gap = norm(a), norm((b - a)[finite])
        worst = max(worst, gap / size if size else gap)
    return worst


def apart(reference: Outputs, candidate: Outputs) -> tuple[float, int, int]:
    """Mean absolute difference where both have numbers, differing elements, elements.

    An output that is missing on one side, or has another shape, differs in every element.
    """
    total, differing, count = 0.0, 0, 0
    for slot in reference.keys() | candidate.keys():
        held = [outputs[slot] for outputs in (reference, candidate) if slot in outputs]
        a, b = wide(held[0]), wide(held[-1])
        count += a.size
        if len(held) < 2 or a.shape != b.shape:
            differing += a.size
            continue
        total += float(np.nansum(np.abs(a - b)))
        differing += int(np.sum(~((a == b) | (np.isnan(a) & np.isnan(b)))))
    return (total / count if count else 0.0), differing, count
