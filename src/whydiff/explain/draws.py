"""``draw-as``: random numbers drawn as the other side draws them, from its generator's state, at its size, in its dtype.

The op stays, and with it the distribution; only what decides which numbers come out of it is the other side's. If a run
draws more (a larger batch), the other's numbers take the place of their counterpart.

``numbers-of``: where the key is the same and the numbers are not, all that can be exchanged are the numbers themselves.

``draw-from``: the same of a live run, which knows its draws by their number. A mode or a setting that switches draws on
says nothing of the state that they begin from: the other side's is part of the experiment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Role, executor_of, for_framework
from whydiff.errors import ReplayError
from whydiff.explain.keys import keys, numbers, takes_a_key
from whydiff.explain.sides import Sides
from whydiff.explain.sites import call_at, sites_of
from whydiff.numbers.metrics import bits_dtype, is_integer
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.pair.slices import options
from whydiff.records import Call, Event, Intervention, Payload, Remedy, Trace

DRAW_AS, NUMBERS_OF, DRAW_FROM = "draw-as", "numbers-of", "draw-from"
_Value = Any
_BEGUN = "what it then draws is the same only from the same state of the generator: seed both there"
_SEEDED = "# and on both sides, right before it draws: the same seed\n"


class Borrowing:
    """A trace with further payloads (another run's random states); everything else is the original's."""

    def __init__(self, trace: Trace, payloads: Mapping[str, Payload]) -> None:
        self._trace, self._borrowed = trace, dict(payloads)

    def payload(self, key: str) -> Payload | None:
        """A borrowed payload, or the original's."""
        return self._borrowed.get(key) or self._trace.payload(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)


@dataclass
class Drawn:
    """How a replay draws as the other side does.

    Attributes:
        exchanged: call index → the same call, from another state.
        borrowed: the states' payloads.
        given: call index → the numbers, where sizes or dtypes differ.
        read: reads of keys → the other side's key; reads of what was drawn → the other side's numbers.
    """

    exchanged: dict[int, Call] = field(default_factory=dict)
    borrowed: dict[str, Payload] = field(default_factory=dict)
    given: list[tuple[Call, _Value]] = field(default_factory=list)
    read: list[tuple[Event, _Value]] = field(default_factory=list)


def drawn(sides: Sides, interventions: Sequence[Intervention]) -> Drawn:
    """What is changed in a replay of the candidate of two sides.

    Raises:
        ReplayError: a call is not in the trace, or its numbers cannot be drawn here.
    """
    found = Drawn(read=_handed(sides, interventions))
    chosen = [item for item in interventions if item.name == DRAW_AS]
    by_site = (sites_of(sides.reference), sites_of(sides.candidate)) if chosen else ({}, {})
    pairs = [(item, call_at(by_site[1], item.target), call_at(by_site[0], item.value)) for item in chosen]
    keyed = [(own, other) for _, own, other in pairs if takes_a_key(sides.candidate, own)]
    if keyed:
        others = [other for _, other in keyed]
        taken = keys(executor_of(sides.reference), others)
        found.read += [(own.reads[0], taken[other.index]) for own, other in keyed]
    for item, own, other in pairs:
        if takes_a_key(sides.candidate, own):
            continue
        state = sides.reference.payload(other.rng) if other.rng else None
        if state is None or own.site.op != other.site.op:
            raise ReplayError("A call cannot draw as another one.", where=item.target, actual=str(other.site))
        if of_one_size(own, other):
            key = f"drawn as {item.value}"
            found.exchanged[own.index] = replace(own, rng=key)
            found.borrowed[key] = state
        else:
            found.given.append((own, _numbers(sides, own, other)))
    return found


def _handed(sides: Sides, interventions: Sequence[Intervention]) -> list[tuple[Event, _Value]]:
    """Reads of what the candidate drew → what the reference drew in its place."""
    chosen = [item for item in interventions if item.name == NUMBERS_OF]
    if not chosen:
        return []
    by_site = sites_of(sides.reference), sites_of(sides.candidate)
    pairs = [(call_at(by_site[1], item.target), call_at(by_site[0], item.value)) for item in chosen]
    made = numbers(executor_of(sides.reference), [other for _, other in pairs])
    given = {(_made(own).storage, own.index): made[other.index] for own, other in pairs}
    reads = [event for call in sides.candidate.calls for event in call.reads]
    return [(event, given[at]) for event in reads if (at := (event.storage, event.producer)) in given]


def live(sides: Sides, item: Intervention) -> Intervention:
    """The intervention as a live run of the candidate carries it out: draws are told by their number there.

    Only another state can be given to a live run; anything else is returned as it is.
    """
    if item.name != DRAW_AS:
        return item
    drawn = [[call for call in trace.calls if call.rng] for trace in (sides.candidate, sides.reference)]
    places = [
        next((n for n, call in enumerate(calls) if str(call.site) == site), None)
        for calls, site in zip(drawn, (item.target, item.value), strict=True)
    ]
    if places[0] is None or places[1] is None:
        return item
    own, other = drawn[0][places[0]], drawn[1][places[1]]
    return Intervention(DRAW_FROM, str(places[0]), str(places[1])) if of_one_size(own, other) else item


def switched_on(sides: Sides, interventions: Sequence[Intervention]) -> list[tuple[Intervention, ...]]:
    """What makes the draws that a mode or a setting switches on in a live candidate begin as the reference's do.

    Which draws these are is a prediction: of the reference's that lie below a module that is switched and have no draw as
    counterpart those that are taken up with values of paired ops, then only those within a module (what a program draws
    beside its model has no module), then all. A wrong one makes other numbers, and so proves nothing.

    Draws are told by the number that they will have: a fresh one comes before the first of the candidate's whose
    counterpart comes after it.
    """
    switches = [item for item in interventions if item.name in ("set-mode", "set-scalar")]
    below = [item.target if item.name == "set-mode" else item.target.rpartition(".")[0] for item in switches]
    if not below:
        return []
    own, others = ([call for call in trace.calls if call.rng] for trace in (sides.candidate, sides.reference))
    numbers = {call.index: number for number, call in enumerate(others)}
    partner = {pair.candidate: pair.reference for pair in sides.alignment.pairs if pair.reference in numbers}
    paired = {partner[call.index] for call in own if call.index in partner}
    stay = [call for call in own if call.index in partner or not _below(call, below)]
    until = [*(partner.get(call.index, -1) for call in stay), len(sides.reference.calls)]
    below = [sides.alignment.rename(path) for path in below]
    fresh = [call for call in others if call.index not in paired and _below(call, below)]
    taken = _taken_up(sides, fresh)
    found = []
    for chosen in (taken, [call for call in taken if call.site.scope], fresh):
        states: list[Intervention] = []
        left = list(chosen)
        for number, end in enumerate(until):
            while left and left[0].index < end:
                at = numbers[left.pop(0).index]
                states.append(Intervention(DRAW_FROM, str(number + len(states)), str(at)))
        if states and tuple(states) not in found:
            found.append(tuple(states))
    return found


def begun_alike(remedy: Remedy) -> Remedy:
    """A remedy of something that switches draws on: it says that these have to begin alike too, in words and code."""
    if _BEGUN in remedy.text:
        return remedy
    code = f"{remedy.code.rstrip()}\n{_SEEDED}" if remedy.code else ""
    return replace(remedy, text=f"{remedy.text.rstrip('.')}; {_BEGUN}.", code=code)


def _below(call: Call, paths: Sequence[str]) -> bool:
    return any(not path or f"{call.site.scope}.".startswith(f"{path}.") for path in paths)


def _taken_up(sides: Sides, drawn_here: Sequence[Call]) -> list[Call]:
    """The reference's draws whose numbers first meet a value that an op with a counterpart made, or enter such an op."""
    paired = {pair.reference for pair in sides.alignment.pairs}
    readers: dict[int, list[Call]] = {}
    for call in sides.reference.calls if drawn_here else ():
        for producer in {event.producer for event in call.reads}:
            readers.setdefault(producer, []).append(call)

    def met(draw: Call) -> bool:
        seen, left = {draw.index}, [draw]
        while left:
            call = left.pop()
            beside = {event.producer for event in call.reads} - seen - {-1}
            if call.index in paired or beside & paired:
                return True
            if call is draw or not beside:
                following = [one for one in readers.get(call.index, ()) if one.index not in seen]
                seen |= {one.index for one in following}
                left += following
        return False

    return [call for call in drawn_here if met(call)]


def of_one_size(own: Call, other: Call) -> bool:
    """Whether nothing but the generator can make two draws differ: its state, or what it makes of it."""
    return own.arguments == other.arguments and _made(own).spec == _made(other).spec


def moved_axes(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """Which axes of one shape are those of the other, in its order; empty: it has other axes, or the same order."""
    if one == other or sorted(one) != sorted(other):
        return ()
    left = list(range(len(one)))
    found = []
    for size in other:
        found.append(next(axis for axis in left if one[axis] == size))
        left.remove(found[-1])
    return tuple(found)


def draws_alike(own: Call, other: Call) -> bool:
    """Whether two draws are of one distribution: all that may differ are state, size, dtype and device."""
    return own.site.op == other.site.op and _distribution(own) == _distribution(other)


def _distribution(call: Call) -> Any:
    """The arguments without sizes and without what says where and in which dtype numbers are kept."""

    def told(item: Any) -> Any:
        if isinstance(item, dict):
            return "kept" if any(key.startswith("$") and key != "$read" for key in item) else item
        return "size" if isinstance(item, (list, tuple)) and tuple(item) == _made(call).spec.shape else item

    args, named = call.arguments
    return [told(item) for item in args], {name: told(v) for name, v in named.items() if told(v) != "kept"}


def _made(call: Call) -> Event:
    return next(event for event in call.writes if not event.is_look)


def _numbers(sides: Sides, own: Call, other: Call) -> _Value:
    """The other side's numbers in the place of their counterpart among the own ones."""
    executors = [executor_of(trace) for trace in (sides.reference, sides.candidate)]
    value = executors[1].adopt_foreign(executors[0].payload(_drawn_by(executors[0], other)))
    mine, theirs = _made(own).spec, _made(other).spec
    if mine.shape != theirs.shape:
        axes = moved_axes(theirs.shape, mine.shape)
        if axes:
            given = executors[1].payload(value)
            value = executors[1].adopt_foreign(replace(given, bits=np.ascontiguousarray(given.bits.transpose(axes))))
        elif mine.numel == theirs.numel:
            value = value.reshape(mine.shape)
        else:
            maps = options(theirs.shape, mine.shape, sides.axes, is_integer(mine.dtype))
            if not maps:
                raise ReplayError("What is drawn has no counterpart.", where=str(own.site), actual=str(theirs))
            if maps[0].whole == "reference":
                value = maps[0].part(value)
            else:
                drawn = _drawn_by(executors[1], own)
                value = maps[0].put(drawn, _kept_as(executors[1], value, mine.dtype), executors[1].put)
    return value if _converted(sides.candidate, own, theirs.dtype) else _kept_as(executors[1], value, mine.dtype)


def _drawn_by(executor: Executor, call: Call) -> _Value:
    """What a draw gives that reads nothing but the memory that it draws into."""
    reads = []
    for position, event in enumerate(call.reads):
        if position not in call.mutates:
            raise ReplayError("A draw depends on what it reads.", where=str(call.site))
        reads.append(_blank(executor, event.spec.shape, event.spec.dtype))
    return (list(executor.apply(call, reads)) or reads)[0]


def _converted(trace: Trace, call: Call, dtype: str) -> bool:
    """Whether all that is done with a draw is to convert it to a dtype that holds the other one: then nothing is lost."""
    storage = _made(call).storage
    readers = [
        c for c in trace.calls if c.kind != "view" and any(e.storage == storage for e in c.reads) and c is not call
    ]
    roles = [for_framework(trace.framework).roles(reader.site.op) for reader in readers]
    wide = UNIT_ROUNDOFF.get(dtype)
    return bool(readers) and all(
        Role.CAST in role and wide is not None and UNIT_ROUNDOFF.get(reader.writes[0].spec.dtype, 1.0) <= wide
        for role, reader in zip(roles, readers, strict=True)
    )


def _kept_as(executor: Executor, value: _Value, dtype: str) -> _Value:
    """A value rounded to a dtype."""
    payload = executor.payload(value)
    return value if payload.dtype == dtype else executor.put(_blank(executor, payload.bits.shape, dtype), ..., value)


def _blank(executor: Executor, shape: tuple[int, ...], dtype: str) -> _Value:
    return executor.adopt_foreign(Payload(np.zeros(shape, bits_dtype(dtype)), dtype))


__all__ = [
    "DRAW_AS",
    "DRAW_FROM",
    "NUMBERS_OF",
    "Borrowing",
    "Drawn",
    "begun_alike",
    "drawn",
    "draws_alike",
    "live",
    "moved_axes",
    "of_one_size",
    "switched_on",
]
