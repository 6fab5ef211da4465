"""The other direction of an experiment: what put into the reference makes it the candidate.

| intervention on the candidate | its mirror on the reference |
|---|---|
| ``restore-state``, ``restore-input``, ``restore-values`` | the counterpart gets the candidate's tensor |
| ``set-scalar``, ``set-mode``, ``set-flag`` | the counterpart gets the value that the candidate has |
| ``set-argument`` | the counterpart of the call gets the candidate's argument |
| ``read-from`` | the counterpart of the read looks at the counterpart of what the candidate's looks at |
| ``read-as-written`` | the counterpart of the read looks at what was written last in its place |
| ``set-dtype`` | the counterpart computes in the dtype that the candidate's call computes in |
| ``permute`` | the counterpart is rearranged the other way |
| ``scale`` | the counterpart is multiplied by the inverse factor |
| ``replace-op`` | the candidate's op, or region, takes the counterpart's place |
| ``shift`` | the opposite is added to the counterpart |
| ``restore-optimizer`` | the counterpart's step begins with the candidate's state |
| ``draw-as`` | the counterpart draws as the candidate's call does |
| ``numbers-of`` | the counterpart's numbers are the candidate's |
| ``insert-step``, ``remove-step`` | the step is removed, or inserted, at the counterpart |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from whydiff.capturing.adapters import for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.arguments import as_value, one_overload
from whydiff.explain.interventions import whole_of
from whydiff.explain.sides import Sides
from whydiff.explain.sites import call_at, read_at, sites_of, value_at
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.rearrangement import parse
from whydiff.records import Call, Event, Intervention


def mirrored(sides: Sides, interventions: Sequence[Intervention]) -> tuple[Intervention, ...] | None:
    """A take-away's interventions for the other side; None if one has no counterpart there.

    A conversion that only the candidate makes needs none: what reads it is converted in the reference instead.

    Args:
        sides: the pair, of which the candidate is what ``interventions`` change.
        interventions: named in the table.
    """
    mirror = _Mirror(sides)
    found = [mirror.of(item) for item in interventions if not mirror.lone_conversion(item)]
    return tuple(item for item in found if item is not None) if found and None not in found else None


class _Mirror:
    def __init__(self, sides: Sides) -> None:
        self.sides = sides
        self.sites = sites_of(sides.candidate)
        self.partner = {pair.candidate: pair.reference for pair in sides.alignment.pairs}

    def of(self, item: Intervention) -> Intervention | None:
        make = _KINDS.get(item.name)
        try:
            return make(self, item) if make is not None else None
        except WhydiffError:  # the target is no call of the trace, or a pattern does not fit: nothing mirrors it
            return None

    def lone_conversion(self, item: Intervention) -> bool:
        if item.name != "set-dtype" or item.target not in self.sites:
            return False
        call = self.sites[item.target]
        return call.index not in self.partner and len(call.reads) == 1

    def name(self, name: str) -> str:
        """A candidate's module or attribute in the reference's naming."""
        return self.sides.alignment.rename(name)

    def counterpart(self, call: Call) -> Call | None:
        at = self.partner.get(call.index)
        return None if at is None else self.sides.reference.calls[at]

    def restored(self, item: Intervention) -> Intervention:
        here = item.value or item.target
        return Intervention(item.name, here, None if here == item.target else item.target)

    def scalar(self, item: Intervention) -> Intervention | None:
        return self._valued(item, self.name(item.target), self.sides.candidate.scalars, item.target)

    def mode(self, item: Intervention) -> Intervention | None:
        key = f"{item.target}.training" if item.target else "training"
        return self._valued(item, self.name(item.target), self.sides.candidate.scalars, key)

    def flag(self, item: Intervention) -> Intervention | None:
        return self._valued(item, item.target, self.sides.candidate.environment.flags, item.target)

    def _valued(self, item: Intervention, target: str, values: Mapping[str, object], key: str) -> Intervention | None:
        value = as_value(values[key]) if key in values else None
        return None if value is None else Intervention(item.name, target, value[0])

    def argument(self, item: Intervention) -> Intervention | None:
        call = call_at(self.sites, item.target)
        other = self.counterpart(call)
        if other is None or not one_overload(other, call):
            return None
        which = item.value[0]
        value: tuple[object, ...] | None
        args, keywords = call.arguments
        given = keywords if isinstance(which, str) else dict(enumerate(args))
        if which in given:
            value = as_value(given[which])
        elif isinstance(which, str):  # left out: the default
            value = ()
        else:
            known = for_framework(self.sides.candidate.framework).default(call.target, which)
            value = as_value(known[0]) if known is not None else ()
        return None if value is None else Intervention(item.name, str(other.site), (which, *value))

    def read(self, item: Intervention) -> Intervention | None:
        call, position = read_at(self.sites, item.target)
        event, other = call.reads[position], self.counterpart(call)
        maker = self.sides.candidate.calls[event.producer] if event.producer >= 0 else None
        made = self.counterpart(maker) if maker is not None else None
        if maker is None or made is None or other is None or position >= len(other.reads):
            return None
        slot = next((i for i, one in enumerate(maker.writes) if one.storage == event.storage), -1)
        if not 0 <= slot < len(made.writes):
            return None
        alike = maker.writes[slot].spec == made.writes[slot].spec
        look = (event.spec.shape, event.spec.strides, event.spec.offset) if alike else ()
        return Intervention(item.name, str(other.reads[position].site), (str(made.writes[slot].site), *look))

    def overwritten(self, item: Intervention) -> Intervention | None:
        found = self.read(item)
        return None if found is None else Intervention("read-from", found.target, found.value)

    def dtype(self, item: Intervention) -> Intervention | None:
        call = call_at(self.sites, item.target)
        other = self.counterpart(call)
        events = call.reads if call.kind == "return" else call.writes
        dtype = next((event.spec.dtype for event in events if not is_integer(event.spec.dtype)), "")
        return Intervention(item.name, str(other.site), dtype) if other is not None and dtype else None

    def drawn(self, item: Intervention) -> Intervention:
        return Intervention(item.name, item.value, item.target)

    def permuted(self, item: Intervention) -> Intervention | None:
        found = self._value(item.target)
        if found is None:
            return None
        other, shape = found
        return Intervention(item.name, str(other.site), str(parse(item.value, shape).inverse))

    def scaled(self, item: Intervention) -> Intervention | None:
        found = self._value(item.target)
        return None if found is None else Intervention(item.name, str(found[0].site), 1 / float(item.value))

    def shifted(self, item: Intervention) -> Intervention:
        offset, counterpart = item.value
        return Intervention(item.name, counterpart, (-offset, item.target))

    def _value(self, target: str) -> tuple[Event, tuple[int, ...]] | None:
        """The counterpart of a read or written value, and the shape that the value's patterns are applied to."""
        try:
            (call, position), part = read_at(self.sites, target), "reads"
        except WhydiffError:
            (call, position), part = value_at(self.sites, target, "writes"), "writes"
        other = self.counterpart(call)
        events = () if other is None else other.reads if part == "reads" else other.writes
        if position >= len(events):
            return None
        event = (call.reads if part == "reads" else call.writes)[position]
        whole = whole_of(self.sides.candidate, event) if part == "reads" else event.spec
        return None if whole is None else (events[position], whole.shape)

    def inserted(self, item: Intervention) -> Intervention:
        return Intervention("remove-step", item.value, item.target)

    def removed(self, item: Intervention) -> Intervention:
        return Intervention("insert-step", item.value, item.target)

    def replaced(self, item: Intervention) -> Intervention | None:
        first, *inside = item.value if isinstance(item.value, tuple) else (item.value,)
        back = {str(self.sides.reference.calls[p.reference].site): p.candidate for p in self.sides.alignment.pairs}
        if any(site not in back for site in inside):
            return None
        calls = [str(self.sides.candidate.calls[back[site]].site) for site in inside]
        return Intervention(item.name, first, (item.target, *calls))


_KINDS: Mapping[str, Callable[[_Mirror, Intervention], Intervention | None]] = {
    "restore-state": _Mirror.restored,
    "restore-input": _Mirror.restored,
    "restore-values": _Mirror.restored,
    "set-scalar": _Mirror.scalar,
    "set-mode": _Mirror.mode,
    "set-flag": _Mirror.flag,
    "set-argument": _Mirror.argument,
    "read-from": _Mirror.read,
    "read-as-written": _Mirror.overwritten,
    "set-dtype": _Mirror.dtype,
    "draw-as": _Mirror.drawn,
    "carry-out-as": _Mirror.drawn,
    "numbers-of": _Mirror.drawn,
    "restore-optimizer": _Mirror.drawn,
    "permute": _Mirror.permuted,
    "scale": _Mirror.scaled,
    "shift": _Mirror.shifted,
    "replace-op": _Mirror.replaced,
    "insert-step": _Mirror.inserted,
    "remove-step": _Mirror.removed,
}
