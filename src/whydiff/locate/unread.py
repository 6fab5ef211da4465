"""Origins that nothing depends on: what they write is wholly written over before an op that leads to an output reads it.

A program that draws its first weights and then loads others has such. It is read off the recorded flow of data of both
sides, from the end backwards. In doubt a value counts as read: one that Python is given, one of which a part may be left,
all that was made before memory was read that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from whydiff.capturing.adapters import Role, for_framework
from whydiff.pair.replay import returns
from whydiff.records import Call, Origin, Slot, TensorSpec, Trace

_OWN = ("implementation", "arguments")
"""Kinds of origins at which a call writes the value that differs."""
_NO_NUMBERS = ("empty", "left_out")

Part = tuple[str, int, int]
"""A dtype, the first element within a storage and the one behind the last."""


def unread(reference: Trace, candidate: Trace, origins: tuple[Origin, ...]) -> frozenset[int]:
    """Positions of the origins of which nothing that either run came to depends on what their calls write."""
    asked = [i for i, one in enumerate(origins) if one.kind in _OWN and not one.leaves and min(one.calls) >= 0]
    traces = (reference, candidate)
    if not asked or not all(trace.level == "op" and trace.complete and _returned_by_ops(trace) for trace in traces):
        return frozenset()
    used = [_used(trace) for trace in traces]
    return frozenset(
        i for i in asked if not any(index in calls for index, calls in zip(origins[i].calls, used, strict=True))
    )


def _returned_by_ops(trace: Trace) -> bool:
    """Whether a run gave something back and was seen making all of it: what numpy makes of a tensor is read by no op."""
    number = returns(trace.calls)
    seen = {Slot(number[call.index], e.site.slot) for call in trace.calls if call.index in number for e in call.reads}
    return bool(seen) and all(one.kind in _NO_NUMBERS or one.slot in seen for one in trace.outputs or ())


@dataclass
class _Wanted:
    """Parts of storages that are read later on; ``all``: it is not known which."""

    parts: dict[int, list[Part]] = field(default_factory=dict)
    all: bool = False

    def uses(self, call: Call) -> bool:
        """Whether what a call does is wanted."""
        return self.all or not call.writes or any(e.storage < 0 or e.storage in self.parts for e in call.writes)

    def read_by(self, call: Call) -> None:
        for event in call.reads:
            if event.storage < 0:
                self.all = True
            elif not event.overwritten:
                self.parts.setdefault(event.storage, []).append(_part(event.spec))

    def written_by(self, call: Call) -> None:
        """What it writes over is not wanted as it was before; some ops that draw in place read it nevertheless."""
        for position in () if call.rng else call.mutates:
            event = call.reads[position]
            if event.overwritten and event.storage in self.parts:
                over = _part(event.spec)
                left = [rest for part in self.parts[event.storage] for rest in _without(part, over, event.spec.numel)]
                self.parts[event.storage] = left
                if not left:
                    del self.parts[event.storage]


def _used(trace: Trace) -> set[int]:
    """Calls on which something depends that a run came to."""
    roles = for_framework(trace.framework).roles
    wanted, found = _Wanted(), set[int]()
    for call in reversed(trace.calls):
        if call.kind == "view":
            memory = {event.storage for event in call.writes}
            if not memory <= {event.storage for event in call.reads} and wanted.uses(call):
                wanted.read_by(call)
        elif wanted.uses(call):
            found.add(call.index)
            wanted.written_by(call)
            if Role.SHAPE_ONLY not in roles(call.site.op):
                wanted.read_by(call)
    return found


def _part(spec: TensorSpec) -> Part:
    reach = sum((size - 1) * stride for size, stride in zip(spec.shape, spec.strides, strict=False))
    length = reach + 1 if spec.strides and spec.numel else spec.numel
    return spec.dtype, spec.offset, spec.offset + length


def _without(part: Part, over: Part, elements: int) -> list[Part]:
    """What is left of a part where another was written, of so many elements."""
    dtype, begin, end = part
    if over[0] != dtype or over[2] - over[1] != elements:  # of other units, or with gaps
        return [part]
    cut = [(begin, min(end, over[1])), (max(begin, over[2]), end)]
    return [(dtype, first, last) for first, last in cut if first < last]
