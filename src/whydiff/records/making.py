"""Records made by the ten thousand, of one capture.

A frozen dataclass sets every field by a call, which is most of what making one costs. Here an object of a class with the
same slots is filled, and then told its class: it equals one that the class made in every way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from whydiff.records.spec import TensorSpec
from whydiff.records.trace import Call, Event, Fingerprint, Kind, Phase, Site

Look = tuple[TensorSpec, Fingerprint | None, int, int, str, str]
"""The fields of an `Event` but for its site: spec, fingerprint, storage, producer, skipped, payload."""


def _open(kind: type) -> Any:
    """A class of the same layout whose fields can be set."""
    return type(f"_Open{kind.__name__}", (), {"__slots__": vars(kind)["__slots__"]})


_Site, _Event, _Call, _Print = _open(Site), _open(Event), _open(Call), _open(Fingerprint)


def fingerprint(lanes: tuple[int, int] | None, nbytes: int, covers: Literal["content", "span"]) -> Fingerprint:
    """A `Fingerprint`; without lanes it is none until `read` gives it some."""
    made: Any = _Print()
    made.nbytes, made.covers = nbytes, covers
    if lanes is not None:
        made.lanes = lanes
        made.__class__ = Fingerprint
    return made  # type: ignore[no-any-return]


def read(made: Fingerprint, lanes: tuple[int, int]) -> None:
    """Give a `fingerprint` that has none its lanes."""
    waiting: Any = made
    waiting.lanes = lanes
    waiting.__class__ = Fingerprint


def site(*, scope: str, op: str, phase: Phase, step: int, rank: int, occurrence: int) -> Site:
    """The `Site` of a whole call."""
    made: Any = _Site()
    made.scope, made.op, made.phase, made.step = scope, op, phase, step
    made.rank, made.occurrence, made.slot = rank, occurrence, ""
    made.__class__ = Site
    return made  # type: ignore[no-any-return]


def events(call: Site, slots: Sequence[str], looks: Sequence[Look]) -> tuple[Event, ...]:
    """What a call read or wrote, in its slots."""
    scope, op, phase, step, rank, occurrence = call.scope, call.op, call.phase, call.step, call.rank, call.occurrence
    found: list[Event] = []
    append, new_site, new_event = found.append, _Site, _Event
    for slot, look in zip(slots, looks, strict=True):
        place: Any = new_site()
        place.scope, place.op, place.phase, place.step = scope, op, phase, step
        place.rank, place.occurrence, place.slot = rank, occurrence, slot
        place.__class__ = Site
        made: Any = new_event()
        made.site = place
        made.spec, made.fingerprint, made.storage, made.producer, made.skipped, made.payload = look
        made.__class__ = Event
        append(made)
    return tuple(found)


def call(
    *,
    index: int,
    site: Site,
    target: str,
    kind: Kind,
    reads: tuple[Event, ...],
    writes: tuple[Event, ...],
    arguments: Any,
    mutates: tuple[int, ...],
    context: int,
    rng: str,
    source: str = "",
) -> Call:
    """A `Call` of all its fields."""
    made: Any = _Call()
    made.index, made.site, made.target, made.kind = index, site, target, kind
    made.reads, made.writes, made.arguments, made.mutates = reads, writes, arguments, mutates
    made.context, made.rng, made.source = context, rng, source
    made.__class__ = Call
    return made  # type: ignore[no-any-return]
