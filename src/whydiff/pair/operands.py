"""Which reads of a call are numbers in the other call of its pair.

A compiled program holds as a number what the same program reads from a tensor if it is executed op by op (JAX makes
arrays of no axes of Python's numbers), and a formula may be written either way (``torch.tensor(0.5) * x``, ``0.5 * x``).
The counterpart of such a read is the number, not the tensor that happens to stand at its place among the reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.formats import round_to
from whydiff.records import Call, Event, Fingerprint

ELEMENTS = 1 << 20
"""Largest tensor of which it is asked whether it holds one number throughout. A size, not a numerical tolerance."""

_Place = tuple[Any, ...]


def counting(reference: Call, candidate: Call, slot: str) -> tuple[list[Event], list[Event], int]:
    """What counts of two paired calls' events, and how many of their reads are another number in the other call.

    Left out are reads whose old content does not matter, further looks at storage that is compared elsewhere, and reads
    that are numbers in the other call.

    Args:
        reference, candidate: calls that the alignment paired.
        slot: ``reads`` or ``writes``.
    """
    ours, theirs = _shown(reference, slot), _shown(candidate, slot)
    if slot != "reads" or len(ours) == len(theirs) or reference.kind == "return":
        return ours, theirs, 0
    mine, others = _told(reference, candidate, ours, theirs), _told(candidate, reference, theirs, ours)
    return (
        [event for i, event in enumerate(ours) if i not in mine],
        [event for i, event in enumerate(theirs) if i not in others],
        sum(number is None for number in (*mine.values(), *others.values())),
    )


def _shown(call: Call, slot: str) -> list[Event]:
    return [event for event in getattr(call, slot) if not (event.overwritten or event.is_look)]


def _told(call: Call, other: Call, reads: Sequence[Event], others: Sequence[Event]) -> dict[int, Any]:
    """Positions among a call's reads of what the other call is given as a number → that number, if it is the same.

    The reads that a call has more than its counterpart are such if the counterpart has numbers that the call has not.
    Which of its reads they are: those that hold one of the numbers; else those of whose bits the other call reads none;
    else those of no axes; else those that stand where the other call has its number.

    Args:
        call, other: paired calls.
        reads, others: what of their reads counts.

    Returns:
        At most as many positions as ``call`` reads more; None for a read that holds another number.
    """
    more = len(reads) - len(others)
    if more <= 0:
        return {}
    known = [number for _, number in _numbers(call.arguments)]
    lone = [(place, number) for place, number in _numbers(other.arguments) if not _taken(number, known)]
    could = [i for i, event in enumerate(reads) if any(_may_hold(event, number) for _, number in lone)]
    if min(len(lone), len(could)) < more:
        return {}
    places = {place for place, _ in lone}
    marks = {event.fingerprint for event in others if event.fingerprint is not None}
    at = {index: place for place, index in _places(call.arguments)}
    held = [next((number for _, number in lone if holds(event, number)), None) for event in reads]

    def likely(i: int) -> tuple[bool, ...]:
        event = reads[i]
        there = at.get(next(n for n, one in enumerate(call.reads) if one is event)) in places
        return held[i] is not None, event.fingerprint not in marks, not event.spec.shape, there

    chosen = sorted(could, key=lambda i: (*likely(i), i))[-more:]
    return {i: held[i] for i in sorted(chosen)}


def spelled_out(call: Call, other: Call) -> Any:
    """A call's arguments with the numbers of its counterpart in place of the tensors that hold just these."""
    numbers = {i: number for i, number in _told(call, other, call.reads, other.reads).items() if number is not None}
    if not numbers:
        return call.arguments
    left = [i for i in range(len(call.reads)) if i not in numbers]
    return _replaced(call.arguments, {i: {"$read": n} for n, i in enumerate(left)} | numbers)


def holds(event: Event, number: Any) -> bool:
    """Whether every element of what was read is a number, rounded to the tensor's dtype."""
    mark = event.fingerprint
    if mark is None or mark.covers != "content" or event.spec.numel > ELEMENTS:
        return False
    if isinstance(number, bool) != (event.spec.dtype == "bool"):
        return False
    return _uniform(number, event.spec.dtype, event.spec.shape) == mark


def _may_hold(event: Event, number: Any) -> bool:
    """A truth value, which may be an option of the op, stands for a tensor of truth values only."""
    return event.spec.dtype == "bool" or not isinstance(number, bool)


def _uniform(number: complex, dtype: str, shape: tuple[int, ...]) -> Fingerprint | None:
    """The fingerprint of a tensor that holds one number; None: numpy has no such dtype, or it cannot hold it."""
    try:
        if dtype == "bfloat16":
            wide = round_to(np.full(shape, number, np.float64), dtype).astype(np.float32)
            return fingerprint_bytes(np.ascontiguousarray((wide.view(np.uint32) >> 16).astype(np.uint16)))
        with np.errstate(over="ignore"):
            values = np.full(shape, number, np.dtype(dtype))
        whole = values.dtype.kind in "iub"
        return None if whole and np.any(values != number) else fingerprint_bytes(values)
    except (TypeError, ValueError, OverflowError):
        return None


def _numbers(template: Any, place: _Place = ()) -> Iterator[tuple[_Place, Any]]:
    """The numbers of an argument template with their places."""
    if isinstance(template, Mapping):
        written = template.get("$number")
        if written is not None:
            template = written[1]
        elif "$complex" in template:
            template = complex(*template["$complex"])
        else:
            for key, value in template.items():
                if key != "$read":
                    yield from _numbers(value, (*place, key))
            return
    if isinstance(template, (list, tuple)):
        for n, value in enumerate(template):
            yield from _numbers(value, (*place, n))
    elif isinstance(template, (int, float, complex)):
        yield place, template


def _taken(number: Any, known: list[Any]) -> bool:
    """Whether a number is among the known ones, of which it is then one less."""
    found = next((n for n, one in enumerate(known) if type(one) is type(number) and one == number), None)
    if found is not None:
        del known[found]
    return found is not None


def _places(template: Any, place: _Place = ()) -> Iterator[tuple[_Place, int]]:
    """Where an argument template has its tensors."""
    if isinstance(template, Mapping):
        if "$read" in template:
            yield place, template["$read"]
        else:
            for key, value in template.items():
                yield from _places(value, (*place, key))
    elif isinstance(template, (list, tuple)):
        for n, value in enumerate(template):
            yield from _places(value, (*place, n))


def _replaced(template: Any, reads: Mapping[int, Any]) -> Any:
    """An argument template with other content in the places of its tensors."""
    if isinstance(template, Mapping):
        if "$read" in template:
            found = reads[template["$read"]]
            return {**template, **found} if isinstance(found, Mapping) else found
        return {key: _replaced(value, reads) for key, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [_replaced(value, reads) for value in template]
    return template
