"""Products that enter a sum without being rounded: where a program has contracted ``a * b + c``."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import FUSED, Executor, Role, for_framework
from whydiff.errors import ReplayError, WhydiffError
from whydiff.numbers.fused import FUSABLE
from whydiff.numbers.metrics import values
from whydiff.pair.replay import replay
from whydiff.records import Call, Event, Trace

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Contraction:
    """A sum that a program computed from an unrounded product.

    Attributes:
        call: index of the addition or subtraction.
        product: which of its reads is the product.
        elements: how many of its results differ from those with a rounded product.
        cancelled: bits that its operands lose where they cancel most: log2 of the larger one over the result with a
            rounded product (over the product's last bit where nothing is left).
    """

    call: int
    product: int
    elements: int
    cancelled: float


def contractions(trace: Trace, executor: Executor, wanted: Collection[int] | None = None) -> tuple[Contraction, ...]:
    """Where the values that a program recorded are those of a fused multiply-add and not of rounded products.

    Args:
        trace: of the program.
        executor: a replay of it; it is used up.
        wanted: calls to look at; None: all.
    """
    places = {
        call.index: ways
        for call in trace.calls
        if (wanted is None or call.index in wanted) and (ways := _ways(trace, call))
    }
    if not places:
        return ()
    kept: dict[int, dict[int, Any]] = {}
    makers = {
        call.reads[way].producer: index
        for index, ways in places.items()
        for call in (trace.calls[index],)
        for way in ways
    }
    found: list[Contraction] = []

    def before(executor: Executor, call: Call) -> None:
        if call.index in makers or call.index in places:
            kept[call.index] = {i: executor.copy(executor.read(event)) for i, event in enumerate(call.reads)}

    def after(executor: Executor, call: Call) -> None:
        if call.index in places:
            one = _looked_at(trace, executor, call, places[call.index], kept)
            found.extend([one] if one is not None else [])

    replay(executor, before=before, watch=after)
    return tuple(found)


def fused_call(trace: Trace, call: Call, product: int) -> Call:
    """The call that computes the same from the unrounded product.

    Raises:
        ReplayError: what it reads there is no product, or it is no plain sum.
    """
    if product not in _ways(trace, call):
        raise ReplayError("This is no sum of a product and something else.", where=str(call.site))
    maker = trace.calls[call.reads[product].producer]
    roles = for_framework(trace.framework).roles(call.site.op)
    operands = call.arguments[0]
    first = operands[0] == {"$read": product}
    other = operands[1 if first else 0]
    reads: list[Event] = list(maker.reads)
    if isinstance(other, dict):
        reads.append(call.reads[other["$read"]])
        other = {"$read": len(reads) - 1}
    minus = Role.DIFFERENCE in roles
    signs = {"product": -1.0 if minus and not first else 1.0, "added": -1.0 if minus and first else 1.0}
    arguments = [[*maker.arguments[0], other], signs]
    return replace(call, target=FUSED, reads=tuple(reads), arguments=arguments)


def _ways(trace: Trace, call: Call) -> list[int]:
    """Reads of a sum that are products of the same dtype which nothing but rounding keeps from being fused."""
    roles = for_framework(trace.framework).roles
    if call.kind != "compute" or not {Role.PLUS, Role.DIFFERENCE} & roles(call.site.op) or not _plain(call):
        return []
    found = []
    for position, event in enumerate(call.reads):
        maker = trace.calls[event.producer] if event.producer >= 0 else None
        if maker is None or Role.TIMES not in roles(maker.site.op) or not _plain(maker):
            continue
        written = maker.writes[0]
        whole = written.storage == event.storage and written.spec.shape == event.spec.shape
        if whole and event.spec.dtype == call.writes[0].spec.dtype in FUSABLE:
            found.append(position)
    return found


def _plain(call: Call) -> bool:
    """Whether a call has two operands, tensors or numbers, no factor, and changes nothing in place."""
    operands, others = call.arguments[0], call.arguments[1]
    known = all(isinstance(item, (int, float)) or (isinstance(item, dict) and "$read" in item) for item in operands)
    bare = all(value is None for value in others.values())
    return len(operands) == 2 and known and bare and not call.mutates and len(call.writes) == 1


def _looked_at(
    trace: Trace, executor: Executor, call: Call, ways: list[int], kept: dict[int, dict[int, Any]]
) -> Contraction | None:
    """Whether the replay's value here is that of a fused multiply-add, and not of the call alone."""
    try:
        held = _exact(executor, executor.read(call.writes[0]))
        alone = _exact(executor, executor.apply(call, list(kept[call.index].values()))[0])
    except WhydiffError:
        return None
    changed = int(np.count_nonzero(held.view(np.int64) != alone.view(np.int64)))
    if not changed:
        return None
    for way in ways:
        fused = fused_call(trace, call, way)
        maker = trace.calls[call.reads[way].producer]
        reads = list(kept[maker.index].values())
        reads += [kept[call.index][i] for i, event in enumerate(call.reads) if event in fused.reads[len(reads) :]][:1]
        if np.array_equal(_exact(executor, executor.fused(fused, reads)), held, equal_nan=True):
            terms = [np.abs(_exact(executor, value)) for value in kept[call.index].values()]
            return Contraction(
                call.index, way, changed, _cancelled(np.maximum.reduce(np.broadcast_arrays(*terms)), alone)
            )
    return None


def _exact(executor: Executor, value: Any) -> Array:
    payload = executor.payload(value)
    return np.asarray(values(payload.bits, payload.dtype), np.float64)


def _cancelled(largest: Array, left: Array) -> float:
    """Bits lost where the operands cancel most."""
    known = largest > 0
    if not known.any():
        return 0.0
    share = np.maximum(np.abs(left)[known] / largest[known], 2.0**-24)
    return float(np.max(-np.log2(share)))
