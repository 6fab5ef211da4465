"""One pass over a whole input against several passes that each take a piece of it (a prompt, then token by token).

What the later passes return has its counterpart in a part of what the one pass returned: the rows behind those of the
passes before, or, of what grows with them (a cache), all rows until then. Believed where the pieces of the input are, bit
for bit, the parts of the whole input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.pair.replay import returns
from whydiff.records import Alignment, Call, Event, Output, Payload, Slot, TensorSpec, Trace

Part = tuple[int, int, int]
"""An axis, and the first row and the row behind the last one there."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one of the later passes returned, and where the one pass has it.

    Attributes:
        returned: index of the call by which the later pass returned it.
        looks: at what the one pass returned.
        outputs: the same as recorded; their slots still carry the number of the one pass.
    """

    returned: int
    looks: tuple[Event, ...]
    outputs: tuple[Output, ...]


def pieces(whole: Trace, several: Trace, alignment: Alignment) -> tuple[Piece, ...]:
    """The later passes of a run, as pieces of the other run's one pass.

    Args:
        whole, several: the run of one pass is the alignment's reference.
        alignment: of both; pairs the one pass with the first of the several.
    """
    lone = [index for index in alignment.unpaired_candidate if several.calls[index].kind == "return"]
    if not lone or any(whole.calls[index].kind == "return" for index in alignment.unpaired_reference):
        return ()
    found = [(p.reference, p.candidate) for p in alignment.pairs if whole.calls[p.reference].kind == "return"]
    behind = max((pair.candidate for pair in alignment.pairs), default=-1)
    if len(found) != 1 or lone[0] < behind or _written_over(whole, found[0][0]):
        return ()
    at, first = found[0]
    passes = [several.calls[index] for index in (first, *lone)]
    inputs = [_taken_up(several, call.index, start) for call, start in zip(passes, (-1, first, *lone), strict=False)]
    if not _same_input((whole, several), _taken_up(whole, at, -1), inputs):
        return ()
    found_in = (
        (event, _parts(event, [_named(call, event.site.slot) for call in passes])) for event in whole.calls[at].reads
    )
    parts = {event.site.slot: (event, part) for event, part in found_in if part is not None}
    return tuple(_cut(whole, at, lone, parts)) if parts else ()


def _cut(whole: Trace, at: int, lone: Sequence[int], parts: dict[str, tuple[Event, list[Part]]]) -> Iterator[Piece]:
    number = returns(whole.calls)[at]
    recorded = {one.slot.name: one for one in whole.outputs or () if one.slot.number == number}
    if not all(slot in recorded and recorded[slot].payload is not None for slot in parts):
        return
    for n, index in enumerate(lone, 1):
        looks, outputs = [], []
        for slot, (event, every) in parts.items():
            part = every[n]
            looks.append(_look(event, part))
            kept = recorded[slot].payload
            assert kept is not None  # asked above
            bits = np.ascontiguousarray(kept.bits[(slice(None),) * part[0] + (slice(part[1], part[2]),)])
            outputs.append(
                Output(Slot(number, slot), "numbers", "Tensor", payload=Payload(bits, kept.dtype), spec=looks[-1].spec)
            )
        yield Piece(index, tuple(looks), tuple(outputs))


def _look(event: Event, part: Part) -> Event:
    axis, start, stop = part
    shape, spec = list(event.spec.shape), event.spec
    shape[axis] = stop - start
    offset = spec.offset + start * spec.strides[axis]
    return replace(event, spec=replace(spec, shape=tuple(shape), offset=offset), fingerprint=None, payload="")


def _named(call: Call, slot: str) -> Event | None:
    return next((event for event in call.reads if event.site.slot == slot), None)


def _parts(whole: Event, several: Sequence[Event | None]) -> list[Part] | None:
    """Which rows of a whole value each of several is; None: they are none of it."""
    events = [event for event in several if event is not None]
    if len(events) < len(several) or any(event.spec.dtype != whole.spec.dtype for event in events):
        return None
    shape = whole.spec.shape
    if not whole.spec.strides or any(len(event.spec.shape) != len(shape) for event in events):
        return None
    axes = {n for event in events for n, size in enumerate(event.spec.shape) if size != shape[n]}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    sizes = [event.spec.shape[axis] for event in events]
    if sum(sizes) == shape[axis]:
        return [(axis, start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]
    grows = all(one < other for one, other in pairwise(sizes)) and sizes[-1] == shape[axis]
    return [(axis, 0, size) for size in sizes] if grows else None


def _taken_up(trace: Trace, returned: int, begun: int) -> list[Event]:
    """What a pass read of what was there before any module was called, each look once."""
    before = next((call.index for call in trace.calls if call.kind == "compute" and call.site.scope), 0)
    found: dict[tuple[int, TensorSpec], Event] = {}
    for call in trace.calls[max(begun + 1, before) : returned]:
        for event in call.reads if call.kind == "compute" else ():
            if event.producer < before and event.storage >= 0:
                found.setdefault((event.storage, event.spec), event)
    return list(found.values())


def _same_input(traces: tuple[Trace, Trace], whole: Sequence[Event], several: Sequence[Sequence[Event]]) -> bool:
    """Whether every pass took up the next rows of what the one pass took up, bit for bit, and else the same (weights)."""
    every = [{(event.spec, event.fingerprint) for event in one} for one in (whole, *several)]
    common = set.intersection(*every)
    own, *others = ([e for e in one if (e.spec, e.fingerprint) not in common] for one in (whole, *several))
    if not own or any(len(one) != len(own) for one in others):
        return False
    return all(_is_cut(traces, event, [one[n] for one in others]) for n, event in enumerate(own))


def _is_cut(traces: tuple[Trace, Trace], whole: Event, several: Sequence[Event]) -> bool:
    """Whether the several are looks at the parts of a tensor of which the whole is all, with the same bits."""
    parts, here = _parts(whole, several), _memory(traces[0], whole)
    if parts is None or here is None or here.spec != whole.spec:
        return False
    for part, event in zip(parts, several, strict=True):
        there = _memory(traces[1], event)
        if there is None or there.fingerprint is None or there.fingerprint != here.fingerprint:
            return False
        if there.spec != here.spec or _look(there, part).spec != event.spec:
            return False
    return True


def _memory(trace: Trace, event: Event) -> Event | None:
    """The whole tensor in whose memory an event looks, as it was made."""
    if event.producer >= 0:
        made = trace.calls[event.producer].writes
        return next((one for one in made if one.storage == event.storage and not one.is_look), None)
    leaf = next((leaf for leaf in trace.leaves if leaf.storage == event.storage), None)
    return None if leaf is None else replace(event, spec=leaf.spec, fingerprint=leaf.fingerprint)


def joins(trace: Trace) -> frozenset[int]:
    """Calls that put what modules returned behind each other, and nothing else."""
    roles = for_framework(trace.framework).roles
    given = {event.storage for call in trace.calls if call.kind == "return" for event in call.reads}
    return frozenset(
        call.index
        for call in trace.calls
        if call.kind == "compute" and Role.JOINS in roles(call.site.op) and all(e.storage in given for e in call.reads)
    )


def _written_over(trace: Trace, at: int) -> bool:
    """Whether a later call changes what was returned."""
    given = {event.storage for event in trace.calls[at].reads}
    return any(call.reads[n].storage in given for call in trace.calls[at + 1 :] for n in call.mutates)
