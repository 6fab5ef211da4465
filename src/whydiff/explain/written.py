"""Outputs that Python made of what calls wrote (``float(loss)``, ``x.tolist()``), carried out in float64.

Such an output is found again by its values: a call wrote just them. Where several did, all of them must give one
result in float64, or those of paired calls must; else nothing is known of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Executor
from whydiff.errors import PayloadError
from whydiff.explain.case import Case
from whydiff.explain.sides import SIDES, Side
from whydiff.numbers.metrics import as_reals, is_integer, values
from whydiff.pair.replay import replay
from whydiff.records import Call, Lift, Payload, Slot

_AT = re.compile(r"(\[\d+\])+$")
"""The end of the path of one number of a list."""

_Place = tuple[int, int]
"""A call's index and which of its written values."""
_Key = tuple[tuple[Slot, ...], int]
"""Outputs that are looked for as one value (a whole list), and which part of it: real (0), imaginary (1), all (-1)."""


@dataclass(frozen=True, slots=True)
class Followed:
    """An output of one side, flat, complex numbers as pairs.

    Attributes:
        plain: as a call wrote it, in that call's dtype.
        exact: as the call writes it in float64.
    """

    plain: Payload
    exact: Payload

    def cut(self, begin: int, end: int) -> Followed:
        """Some of its numbers."""
        return Followed(*(Payload(one.bits[begin:end], one.dtype) for one in (self.plain, self.exact)))

    def and_then(self, other: Followed) -> Followed:
        """The numbers of both, by turns: real and imaginary parts."""
        pairs = ((self.plain, other.plain), (self.exact, other.exact))
        return Followed(*(Payload(np.stack([a.bits, b.bits], -1).reshape(-1), a.dtype) for a, b in pairs))


def followed(case: Case, outputs: Mapping[Slot, tuple[Payload, Payload]]) -> dict[Slot, tuple[Followed, Followed]]:
    """Both sides of the outputs that hold what calls wrote, whoever handed it out.

    Args:
        case: the pair of runs.
        outputs: what both programs gave back, of equal shapes.
    """
    if not outputs or not case.replayable:
        return {}
    sides: list[dict[_Key, dict[_Place, Followed]]] = []
    for number, side in enumerate(SIDES):
        try:
            sides.append(_written(case, side, _wanted({slot: both[number] for slot, both in outputs.items()})))
        except PayloadError:  # what is returned cannot be made again
            return {}
    partner = case.partners[0]
    known: dict[_Key, tuple[Followed, Followed]] = {}
    for key in sides[0].keys() & sides[1].keys():
        ours, theirs = sides[0][key], sides[1][key]
        paired = [(at, there) for at in ours if (there := (partner.get(at[0], -1), at[1])) in theirs]
        found = _one(ours.values()), _one(theirs.values())
        if None in found:
            found = _one(ours[at] for at, _ in paired), _one(theirs[at] for _, at in paired)
        if found[0] is not None and found[1] is not None:
            known[key] = found[0], found[1]
    sizes = {slot: as_reals(both[0]).bits.size for slot, both in outputs.items()}
    made = {slot: _made(slot, sizes, known) for slot in outputs}
    return {slot: both for slot, both in made.items() if both is not None}


def _wanted(given: Mapping[Slot, Payload]) -> dict[_Key, Payload]:
    """What is looked for: every list whole, every output, and the parts of complex ones."""
    lists: dict[tuple[int, str], list[Slot]] = {}
    for slot in given:
        if _AT.search(slot.name):
            lists.setdefault((slot.number, _AT.sub("", slot.name)), []).append(slot)
    found: dict[_Key, Payload] = {}
    for slots in lists.values():
        dtypes = {given[slot].dtype for slot in slots}
        if len(slots) > 1 and len(dtypes) == 1:
            flat = [_flat(given[slot]).bits for slot in slots]
            found[tuple(slots), -1] = Payload(np.concatenate(flat), _flat(given[slots[0]]).dtype)
    for slot, payload in given.items():
        flat_one = _flat(payload)
        found[(slot,), -1] = flat_one
        if flat_one.dtype != payload.dtype:
            found |= {((slot,), part): Payload(flat_one.bits[part::2], flat_one.dtype) for part in (0, 1)}
    return found


def _flat(payload: Payload) -> Payload:
    real = as_reals(payload)
    return Payload(real.bits.reshape(-1), real.dtype)


def _written(case: Case, side: Side, wanted: Mapping[_Key, Payload]) -> dict[_Key, dict[_Place, Followed]]:
    """Where a side's recorded program writes just these values, and what it writes there in float64."""
    plain: dict[_Key, dict[_Place, Payload]] = {}
    by_size: dict[int, list[tuple[_Key, Payload]]] = {}
    for key, payload in wanted.items():
        by_size.setdefault(payload.bits.size, []).append((key, payload))
    sizes = {size // parts for size in by_size for parts in (1, 2)}

    def look(executor: Executor, call: Call) -> None:
        for slot, event in enumerate(call.writes):
            if event.spec.numel not in sizes or event.missing:
                continue
            written = _flat(executor.payload(executor.read(event)))
            for key, payload in by_size.get(written.bits.size, ()):
                if _equal(payload, written):
                    plain.setdefault(key, {})[call.index, slot] = written

    replay(case.experiments.executor(side), watch=look)
    places = {at for found in plain.values() for at in found}
    exact: dict[_Place, Payload] = {}

    def take(executor: Executor, call: Call) -> None:
        for slot, event in enumerate(call.writes):
            if (call.index, slot) in places:
                exact[call.index, slot] = _flat(executor.payload(executor.read(event)))

    if places:
        replay(case.experiments.executor(side, Lift("float64")), watch=take)
    return {
        key: {at: Followed(payload, exact[at]) for at, payload in found.items() if at in exact}
        for key, found in plain.items()
    }


def _equal(given: Payload, written: Payload) -> bool:
    if is_integer(given.dtype) != is_integer(written.dtype):
        return False
    ours, theirs = (values(one.bits, one.dtype) for one in (given, written))
    return bool(np.array_equal(ours, theirs, equal_nan=not is_integer(given.dtype)))


def _one(found: Iterable[Followed]) -> Followed | None:
    """The value, if it is one."""
    known = list(found)
    if not known or any(not _equal(one.exact, known[0].exact) for one in known[1:]):
        return None
    return known[0]


def _made(
    slot: Slot, sizes: Mapping[Slot, int], known: Mapping[_Key, tuple[Followed, Followed]]
) -> tuple[Followed, Followed] | None:
    """One output's two sides, from the list that it stands in, else as it was found alone or in parts."""
    for (slots, part), (ours, theirs) in known.items():
        if part == -1 and len(slots) > 1 and slot in slots:
            begin = sum(sizes[one] for one in slots[: slots.index(slot)])
            end = begin + sizes[slot]
            return ours.cut(begin, end), theirs.cut(begin, end)
    if ((slot,), -1) in known:
        return known[(slot,), -1]
    parts: Sequence[tuple[Followed, Followed]] = [known[(slot,), p] for p in (0, 1) if ((slot,), p) in known]
    if len(parts) < 2:
        return None
    return parts[0][0].and_then(parts[1][0]), parts[0][1].and_then(parts[1][1])
