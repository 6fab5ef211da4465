"""Points at which two programs must agree: operands and results of what reads a matched weight."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from whydiff.capturing.adapters import Role, plays
from whydiff.numbers.metrics import is_integer
from whydiff.records import Call, Count, Event, Trace
from whydiff.studies.port.weights import Weight


@dataclass(frozen=True)
class Point:
    """A value that both programs compute: the operand (``into``) or the result (``out of``) of a layer.

    Attributes:
        weight: whose layer.
        side: ``"into"``, ``"out of"`` or ``"returned"`` (what the programs gave back).
        events: reference's and candidate's.
        calls: the calls that read the weight.
        tentative: what the two calls read tells that the values may be no counterparts.
    """

    weight: Weight
    side: str
    events: tuple[Event, Event]
    calls: tuple[Call, Call]
    tentative: bool = False

    def until(self, side: int) -> int:
        """Index of the call before which the value is there."""
        return self.calls[side].index + (self.side == "out of")


def find_points(
    reference: Trace, candidate: Trace, weights: Sequence[Weight], rounded: Collection[str] = ()
) -> tuple[tuple[Point, ...], tuple[Count, ...]]:
    """Operands and results of the calls that read a matched weight, in the reference's order.

    ``rounded``: weights of either side that are counterparts although their numbers are not equal.
    """
    readers = [_readers(trace) for trace in (reference, candidate)]
    states = tuple(
        {x.storage for x in trace.leaves if x.is_state and x.spec.numel > 1 and x.name not in rounded}
        for trace in (reference, candidate)
    )
    points: list[Point] = []
    unread = []
    for layer in _layers(weights, readers):
        counts = {len(readers[0].get(w.reference, [])) for w in layer} | {
            len(readers[1].get(w.candidate, [])) for w in layer
        }
        if len(counts) != 1 or 0 in counts:
            unread += [w.reference for w in layer]
        for time in range(min(counts)):
            mine, other = (_calls(readers[side], layer, side, time) for side in (0, 1))
            points += _points(layer, mine, other, states, (reference.framework, candidate.framework))
    points += _returned(reference, candidate)
    points.sort(key=lambda p: (p.calls[0].index, p.side == "out of"))
    reason = "not read, or not read equally often on both sides"
    return tuple(points), (
        (Count(what="weights", reason=reason, count=len(unread), examples=tuple(unread[:3])),) if unread else ()
    )


def _returned(reference: Trace, candidate: Trace) -> Iterator[Point]:
    """What both programs gave back, in order."""
    ends = [[call for call in trace.calls if call.kind == "return"] for trace in (reference, candidate)]
    if not all(ends):
        return
    mine, other = ends[0][-1], ends[1][-1]
    for ours, theirs in zip(mine.reads, other.reads, strict=False):
        if ours.spec.numel == theirs.spec.numel and min(ours.storage, theirs.storage) >= 0 and _floats(ours):
            yield Point(Weight(ours.site.slot, theirs.site.slot, ""), "returned", (ours, theirs), (mine, other))


Readers = dict[str, list[tuple[Call, int]]]


def _layers(weights: Sequence[Weight], readers: Sequence[Readers]) -> list[list[Weight]]:
    """Weights that one call of either side reads together (a kernel and its bias), or that were folded together: one layer."""
    groups = [[weight] for weight in weights if not weight.beside]
    groups += [[w for w in weights if w.beside == made] for made in dict.fromkeys(w.beside for w in weights) if made]
    for side in (0, 1):
        by_call: dict[int, list[Weight]] = {}
        for weight in weights:
            for call, _ in readers[side].get((weight.reference, weight.candidate)[side], []):
                by_call.setdefault(call.index, []).append(weight)
        for together in by_call.values():
            touched = [group for group in groups if any(weight in group for weight in together)]
            if len(touched) > 1:
                groups = [group for group in groups if group not in touched]
                groups.append([weight for group in touched for weight in group])
    return groups


def _calls(readers: Readers, layer: Sequence[Weight], side: int, time: int) -> list[tuple[Call, int, Weight]]:
    """What reads a layer's weights for the n-th time, in execution order."""
    found = [(*readers[(w.reference, w.candidate)[side]][time], w) for w in layer]
    return sorted(found, key=lambda item: item[0].index)


def _points(
    layer: Sequence[Weight],
    mine: Sequence[tuple[Call, int, Weight]],
    other: Sequence[tuple[Call, int, Weight]],
    states: Sequence[set[int]],
    frameworks: Sequence[str],
) -> Iterator[Point]:
    """The operand of a layer's product, and the result of its last call.

    A layer without a product (a norm's gain) may be fused with what comes before it on one side only, so that
    its operands are no counterparts.
    """
    kernel = next((w for w in layer if w.axes > 1), None)
    if kernel is not None:
        (call_r, at_r), (call_c, at_c) = ((c, at) for some in (mine, other) for c, at, w in some if w is kernel)
        together = [
            sum(w.axes > 1 for c, _, w in some if c is call) for some, call in ((mine, call_r), (other, call_c))
        ]
        if together[0] != together[1]:
            return  # one call on one side does what several do on the other: a recurrent layer
        kernels = [
            _others(call, at, known) for call, at, known in zip((call_r, call_c), (at_r, at_c), states, strict=True)
        ]
        operands: list[dict[int, Event]] = [
            {e.spec.numel: e for i, e in enumerate(call.reads) if i != at and e.producer >= 0 and _floats(e)}
            if kernels[0] == kernels[1]  # else one call does on its operand what several do on the other side
            else {}
            for call, at in ((call_r, at_r), (call_c, at_c))
        ]
        for size in operands[0].keys() & operands[1].keys():
            yield Point(kernel, "into", (operands[0][size], operands[1][size]), (call_r, call_c))
    last = mine[-1][0], other[-1][0]
    outs = last[0].writes[0], last[1].writes[0]
    if outs[0].spec.numel == outs[1].spec.numel:
        places = _positions(mine, other)
        product = any(plays(name, call.site.op, Role.PRODUCT) for name, call in zip(frameworks, last, strict=True))
        shapes = [_read_so(call, at) for call, at in zip(last, places, strict=True)]
        foreign = [
            any(e.storage in known and e.producer < 0 and i not in at for i, e in enumerate(call.reads))
            for call, known, at in zip(last, states, places, strict=True)
        ]
        tentative = any(foreign) or (kernel is None and not product and shapes[0] != shapes[1])
        yield Point(kernel or layer[0], "out of", outs, last, tentative)


def _positions(*sides: Sequence[tuple[Call, int, Weight]]) -> list[set[int]]:
    """Per side where its last call reads the layer's weights."""
    return [{at for call, at, _ in some if call is some[-1][0]} for some in sides]


def _others(call: Call, own: int, states: set[int]) -> int:
    """How many weights of several axes a call reads besides its own."""
    return sum(
        i != own and e.storage in states and e.producer < 0 and len(e.spec.shape) > 1 for i, e in enumerate(call.reads)
    )


def _read_so(call: Call, weights: set[int]) -> bool:
    """Whether a call reads, besides weights, a value as large as its result."""
    return any(
        e.spec.numel == call.writes[0].spec.numel for i, e in enumerate(call.reads) if i not in weights and _floats(e)
    )


def _readers(trace: Trace) -> Readers:
    """Weight → calls that compute with it, and which operand it is; what only passes it on is looked through."""
    names: dict[int, str] = {}
    for leaf in trace.leaves:
        if leaf.is_state and leaf.storage >= 0:
            names.setdefault(leaf.storage, leaf.name)
    found: Readers = {}
    integers: dict[int, str] = {}
    for call in trace.calls:
        if call.kind not in ("compute", "view"):
            continue
        for position, event in enumerate(call.reads):
            name = names.get(event.storage)
            if name is None:
                _scaled(trace, call, position, integers, found)
                continue
            passed = any(plays(trace.framework, call.site.op, role) for role in (Role.CARRIES, Role.REPEATS))
            if call.kind == "view" or passed:
                for written in call.writes:
                    names[written.storage] = name
            elif call.writes and is_integer(call.writes[0].spec.dtype):
                integers.setdefault(call.writes[0].storage, name)  # no value of the layer before it has its scale
            else:
                found.setdefault(name, []).append((call, position))
    return found


def _scaled(trace: Trace, call: Call, position: int, integers: dict[int, str], found: Readers) -> None:
    """Follow a product of a weight in integers to where it is multiplied by its scale: that is the weight's reader."""
    name = integers.get(call.reads[position].storage)
    if name is None:
        return
    if plays(trace.framework, call.site.op, Role.TIMES):
        found.setdefault(name, []).append((call, position))
    elif plays(trace.framework, call.site.op, Role.CAST):
        integers[call.writes[0].storage] = name


def _floats(event: Event) -> bool:
    return not is_integer(event.spec.dtype) and bool(event.spec.dtype)
