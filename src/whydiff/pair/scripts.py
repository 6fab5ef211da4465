"""What two scripts came to, as what they return, so that whoever follows two runs follows them to their end.

A function ends with what it returns. A script returns nothing by itself: recorded is what its modules return, and then it
goes on. What it came to is what Python was given (``item``), what it made beside modules and never read, and the state as
it left it. Here each of these is returned: a number given to Python where it is given, all others by one call that is
added behind the last one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from whydiff.capturing.adapters import Role, for_framework
from whydiff.capturing.store import DiskTrace
from whydiff.garbage import not_collecting
from whydiff.pair.align.ends import join_ends
from whydiff.pair.lockstep import paired
from whydiff.pair.pieces import Piece, joins, pieces
from whydiff.pair.portions import in_portions, of_portions
from whydiff.pair.replay import read_by, recorded_outputs, returns
from whydiff.records import Alignment, Call, Event, Leaf, Output, Pair, Site, Slot, TensorSpec, Trace

_GIVEN = "given to Python"
_HOW, _PIECE = "end of the script", "piece of a pass"

Spot = tuple[int, TensorSpec]
"""A storage and the part of it that is looked at."""


@not_collecting()
def with_ends(reference: Trace, candidate: Trace, alignment: Alignment) -> tuple[Trace, Trace, Alignment]:
    """Two runs with what they end with paired: what they returned, or, of two scripts, what they came to.

    Args:
        reference, candidate: any; a script's are on disk and do not end with what is returned.
        alignment: of both.
    """
    alignment = join_ends(alignment, reference, candidate)
    sides = [_Side(trace, {}) for trace in (reference, candidate) if isinstance(trace, DiskTrace)]
    if len(sides) < 2 or not any(side.goes_on for side in sides):
        return reference, candidate, alignment
    ours, theirs = sides
    ours.portions, theirs.portions = of_portions(ours.trace, theirs.trace, alignment)
    steps = in_portions(ours.trace, theirs.trace, alignment)
    lone = alignment.unpaired_reference, alignment.unpaired_candidate
    for side, inside, indices in zip(sides, steps, lone, strict=True):
        side.alone = frozenset(index for index in {*indices} & inside if side.trace.calls[index].kind == "return")
    given = _given(ours, theirs, alignment)
    _left(ours, theirs, alignment)
    _made(ours, theirs, alignment)
    if _agree(ours, theirs, alignment):
        both_looked = all(
            any(read_out(side.trace.calls[index]) for index in indices)
            for side, indices in zip(sides, lone, strict=True)
        )
        if ours.ends and ours.ends.keys() == theirs.ends.keys() and not both_looked:  # one side only looked more often
            given = _without(given[0], alignment.unpaired_reference), _without(given[1], alignment.unpaired_candidate)
        _asked(ours, theirs, alignment)
    alignment = _in_pieces(ours, theirs, alignment)
    both = bool(ours.ends or theirs.ends)
    last = (Pair(ours.length, theirs.length, _HOW),) if both else ()
    alignment = replace(alignment, pairs=(*alignment.pairs, *last), scripts=True)
    return ours.returning(given[0], both), theirs.returning(given[1], both), alignment


def _in_pieces(ours: _Side, theirs: _Side, alignment: Alignment) -> Alignment:
    """The alignment with later passes over pieces of an input paired with parts of what one pass over it returned."""
    for turned in (False, True):
        whole, several = (theirs, ours) if turned else (ours, theirs)
        own = alignment.turned() if turned else alignment
        whole.cut = pieces(whole.trace, several.trace, own)
        if whole.cut:
            joined = joins(several.trace)
            several.ends = {name: event for name, event in several.ends.items() if event.producer not in joined}
            done = {one.returned for one in whole.cut}
            added = [Pair(len(whole.trace.calls) + n, one.returned, _PIECE) for n, one in enumerate(whole.cut)]
            left = tuple(index for index in own.unpaired_candidate if index not in done)
            own = replace(own, pairs=(*own.pairs, *added), unpaired_candidate=left)
            return own.turned() if turned else own
    return alignment


def read_out(call: Call) -> bool:
    """Whether a script gives Python a number here (``item``), beside modules and backward passes."""
    return call.gives and call.kind == "compute" and not call.site.scope and call.site.phase == "forward"


def never_read(trace: Trace, *, backward: bool = True) -> dict[Spot, Event]:
    """What calls wrote and no call read since, as it was written last; what Python alone reads (``item``) is none of it.

    Args:
        trace: of a run.
        backward: False: what backward passes alone read counts as not read.
    """
    roles = for_framework(trace.framework).roles
    open_now: dict[int, dict[Spot, Event]] = {}
    for call in trace.calls:
        reads = backward or call.site.phase != "backward"
        if reads and call.kind != "view" and not call.gives and Role.SHAPE_ONLY not in roles(call.site.op):
            for position, event in enumerate(call.reads):
                if position not in call.mutates:
                    open_now.pop(event.storage, None)
        for event in call.writes:
            if event.storage >= 0 and not (event.is_look or event.uninitialised):
                open_now.setdefault(event.storage, {})[event.storage, event.spec] = event
    return {spot: event for found in open_now.values() for spot, event in found.items()}


def _asking(trace: Trace) -> set[int]:
    """Calls that lead to numbers that Python is given and to nothing else."""
    readers: dict[int, list[int]] = {}
    for call in trace.calls:
        if call.kind != "view":
            for event in call.reads:
                readers.setdefault(event.producer, []).append(call.index)
    found: set[int] = set()
    for call in reversed(trace.calls):
        by = readers.get(call.index, ())
        if call.gives or (call.kind == "compute" and not call.mutates and by and all(index in found for index in by)):
            found.add(call.index)
    return found


@dataclass
class _Side:
    """One script.

    Attributes:
        trace: of it.
        ends: name → what is there at the end, all but what Python was given.
        taken: storages that hold state, which is returned under its name.
        portions: calls that see some of a step's rows, where the other script sees more at once.
        alone: those by which a module returns what it made of rows that the other script sees at once with others.
        cut: parts of what it returned by one pass, which the other script returned by later passes.
    """

    trace: DiskTrace
    ends: dict[str, Event]
    taken: set[int] = field(default_factory=set)
    portions: frozenset[int] = frozenset()
    alone: frozenset[int] = frozenset()
    cut: tuple[Piece, ...] = ()

    @cached_property
    def first(self) -> int:
        """Index of the call by which a module returned first; -1: none did."""
        return min(returns(self.trace.calls), default=-1)

    @property
    def length(self) -> int:
        """How many calls there are, with those that return parts."""
        return len(self.trace.calls) + len(self.cut)

    @property
    def goes_on(self) -> bool:
        """Whether anything comes after it."""
        return self.first < len(self.trace.calls) - 1

    @cached_property
    def last(self) -> dict[int, dict[Spot, Event]]:
        """Storage → what was written into each part of it last."""
        found: dict[int, dict[Spot, Event]] = {}
        for call in self.trace.calls:
            for event in call.writes:
                if event.storage >= 0 and not (event.is_look or event.uninitialised):
                    found.setdefault(event.storage, {})[event.storage, event.spec] = event
        return found

    @cached_property
    def made(self) -> dict[Spot, Event]:
        """What was made beside modules, or by a backward pass, and never read; and what modules' state came to."""
        found, kept = never_read(self.trace), never_read(self.trace, backward=False)
        ends = {s: event for s, event in found.items() if self._is_end(event, found)}
        ends |= {s: event for s, event in kept.items() if self._is_kept(event)}
        return {s: event for s, event in ends.items() if s not in self.given}

    @cached_property
    def given(self) -> set[Spot]:
        """What Python is given."""
        return {(event.storage, event.spec) for call in self.trace.calls if read_out(call) for event in call.reads}

    def _is_end(self, event: Event, unread: dict[Spot, Event]) -> bool:
        call = self.trace.calls[event.producer]
        by_script = not call.site.scope or call.site.phase == "backward"
        if call.index <= self.first or call.site.phase == "update" or not by_script:
            return False
        others = [one for one in call.writes if one.storage >= 0 and not one.uninitialised]
        return all((one.storage, one.spec) in unread for one in others)  # else it is a by-product of what is read

    def _is_kept(self, event: Event) -> bool:
        """Whether it is written over in memory that was made beside modules: state of modules that were made meanwhile.

        A backward pass may read it again (a batch norm's does); that is no use that shows in what it gives.
        """
        call = self.trace.calls[event.producer]
        if call.site.phase != "forward":
            return False
        changed = {call.reads[at].storage for at in call.mutates}
        return event.storage in changed and self._born.get(event.storage, "") is None

    @cached_property
    def _born(self) -> dict[int, str | None]:
        """Storage → the scope in which it was first written; None: beside modules."""
        found: dict[int, str | None] = {}
        for call in self.trace.calls:
            for event in call.writes:
                found.setdefault(event.storage, call.site.scope or None)
        return found

    def updates(self, storage: int) -> bool:
        """Whether an optimizer wrote there last."""
        found = max(self.last.get(storage, {}).values(), key=lambda event: event.producer, default=None)
        return found is not None and found.site.phase == "update"

    def returning(self, given: dict[int, Call], ends: bool) -> Trace:
        """The trace with calls that return what the script came to."""
        calls = [given.get(call.index, call) for call in self.trace.calls]
        returned = [[(look.site.slot, look) for look in one.looks] for one in self.cut]
        for looks in (*returned, *([[*self.ends.items()]] if ends else ())):
            site = Site("", "return", step=calls[-1].site.step, rank=calls[-1].site.rank, occurrence=len(calls))
            reads = tuple(replace(event, site=site.at(name)) for name, event in looks)
            names = [name for name, _ in looks]
            calls.append(
                Call(index=len(calls), site=site, target="return", kind="return", reads=reads, arguments=[names, {}])
            )
        return self.trace.with_calls(calls, self._outputs(calls))

    def _outputs(self, calls: list[Call]) -> tuple[Output, ...]:
        """What modules returned as it was recorded, and what the script came to, numbered anew."""
        before, found = returns(self.trace.calls), list[Output]()
        recorded: dict[int, list[Output]] = {}
        for output in recorded_outputs(self.trace):
            recorded.setdefault(output.slot.number, []).append(output)
        for index, number in returns(calls).items():
            if index in self.alone:
                continue
            part = index - len(self.trace.calls)
            if 0 <= part < len(self.cut):
                found += (replace(one, slot=Slot(number, one.slot.name)) for one in self.cut[part].outputs)
            elif index in before:
                known = recorded.get(before[index], [])
                found += (replace(output, slot=Slot(number, output.slot.name)) for output in known)
            else:
                found += read_by(calls[index], number, self.trace)
        return tuple(found)


def _given(ours: _Side, theirs: _Side, alignment: Alignment) -> tuple[dict[int, Call], dict[int, Call]]:
    """Calls by which Python is given a number, as returns."""
    found: tuple[dict[int, Call], dict[int, Call]] = ({}, {})
    pairs = [(ours.trace.calls[p.reference], theirs.trace.calls[p.candidate]) for p in alignment.pairs]
    lone = [(ours.trace.calls[index], None) for index in alignment.unpaired_reference if index > ours.first]
    lone_too = [(None, theirs.trace.calls[index]) for index in alignment.unpaired_candidate if index > theirs.first]
    for both in (*pairs, *lone, *lone_too):
        if any(
            call is not None and call.index in side.portions for call, side in zip(both, (ours, theirs), strict=True)
        ):
            continue  # a total over other rows
        if any(call is not None and read_out(call) for call in both) and all(
            call is None or call.gives for call in both
        ):
            for calls, call in zip(found, both, strict=True):
                if call is not None:
                    calls[call.index] = _as_return(call)
    return found


def _without(given: dict[int, Call], lone: tuple[int, ...]) -> dict[int, Call]:
    gone = {*lone}
    return {index: call for index, call in given.items() if index not in gone}


def _as_return(call: Call) -> Call:
    names = [_GIVEN if len(call.reads) == 1 else f"{_GIVEN}.{number}" for number in range(len(call.reads))]
    reads = (replace(event, site=event.site.at(name)) for event, name in zip(call.reads, names, strict=True))
    return replace(call, kind="return", reads=tuple(reads))


def _left(ours: _Side, theirs: _Side, alignment: Alignment) -> None:
    """The state that either script wrote, by its names; of modules that were made meanwhile, by where it is read."""
    state = {alignment.rename(leaf.name): leaf for leaf in theirs.trace.leaves if leaf.is_state}
    for leaf in ours.trace.leaves:
        other = state.get(leaf.name)
        if leaf.is_state and other is not None and leaf.storage not in ours.taken:
            _both(leaf.name, (ours, theirs), (_of_leaf(leaf), _of_leaf(other)))
    for pair in alignment.pairs:
        calls = ours.trace.calls[pair.reference], theirs.trace.calls[pair.candidate]
        for a, b in paired(*calls, "reads") if calls[0].site.phase == "forward" else ():
            if a.storage not in ours.taken and (ours.updates(a.storage) or theirs.updates(b.storage)):
                _both(str(a.site), (ours, theirs), (a, b))


def _of_leaf(leaf: Leaf) -> Event:
    return Event(
        site=Site("", "state"),
        spec=leaf.spec,
        storage=leaf.storage,
        fingerprint=leaf.fingerprint,
        payload=leaf.payload,
        skipped=leaf.skipped,
    )


def _both(name: str, sides: tuple[_Side, _Side], looks: tuple[Event, Event]) -> None:
    """What is left where both look, if either wrote there; part by part where it was written in parts."""
    for side, look in zip(sides, looks, strict=True):
        side.taken.add(look.storage)
    ours, theirs = (_parts(side.last.get(look.storage, {})) for side, look in zip(sides, looks, strict=True))
    if not ours and not theirs:
        return
    if max(len(ours), len(theirs)) == 1 and len({part[-1] for part in (*ours, *theirs)}) == 1:
        pair = (*ours.values(), looks[0])[0], (*theirs.values(), looks[1])[0]
        for side, event in zip(sides, pair, strict=True):
            side.ends[name] = event
        return
    for number, part in enumerate(dict.fromkeys((*ours, *theirs))):
        for side, parts in zip(sides, (ours, theirs), strict=True):
            if part in parts:
                side.ends[f"{name}, part {number}"] = parts[part]


def _parts(found: dict[Spot, Event]) -> dict[tuple[Any, ...], Event]:
    """Which part of a storage → what is there."""
    return {(spec.shape, spec.strides, spec.offset): event for (_, spec), event in found.items()}


def _made(ours: _Side, theirs: _Side, alignment: Alignment) -> None:
    """What was made beside modules and never read: with its counterpart, whether that is read or not; then what has none."""
    ends = {spot[0] for spot in ours.made}, {spot[0] for spot in theirs.made}
    found: dict[int, tuple[Event, Event]] = {}
    back: dict[int, int] = {}
    for pair in alignment.pairs:
        calls = ours.trace.calls[pair.reference], theirs.trace.calls[pair.candidate]
        for a, b in paired(*calls, "writes"):
            partial = a.producer in ours.portions and a.spec.shape == b.spec.shape  # a total over other rows
            if (a.storage in ends[0] or b.storage in ends[1]) and not partial:
                found[a.storage], back[b.storage] = (a, b), a.storage
    for storage, (a, b) in found.items():
        if back[b.storage] == storage and a.storage not in ours.taken and b.storage not in theirs.taken:
            _both(str(a.site), (ours, theirs), (a, b))
    for side, mark in ((ours, ""), (theirs, " (candidate)")):
        left = side.taken | {storage for storage, _ in side.given}
        for (storage, _), event in side.made.items():
            if storage not in left and event.producer not in side.portions:
                name = str(event.site)
                side.ends[name + mark if name in ours.ends else name] = event


def _agree(ours: _Side, theirs: _Side, alignment: Alignment) -> bool:
    """Whether all that both scripts come to has equal fingerprints."""
    ends = [(event, theirs.ends[name]) for name, event in ours.ends.items() if name in theirs.ends]
    for pair in alignment.pairs:
        calls = ours.trace.calls[pair.reference], theirs.trace.calls[pair.candidate]
        if calls[0].kind == "return" or calls[0].gives:
            ends += paired(*calls, "reads")
    return not any(map(_apart, *zip(*ends, strict=True))) if ends else True


def _apart(one: Event, other: Event) -> bool:
    return one.fingerprint != other.fingerprint or one.spec.dtype != other.spec.dtype


def _asked(ours: _Side, theirs: _Side, alignment: Alignment) -> None:
    """What differs and leads to nothing but numbers that Python was given, which agree: Python may have the rest too."""
    asking = _asking(ours.trace), _asking(theirs.trace)
    for pair in alignment.pairs:
        calls = ours.trace.calls[pair.reference], theirs.trace.calls[pair.candidate]
        if (
            calls[0].index <= ours.first
            or calls[0].site.scope
            or not all(call.index in known for call, known in zip(calls, asking, strict=True))
        ):
            continue
        for a, b in paired(*calls, "writes"):
            known = all(event.fingerprint and event.fingerprint.covers == "content" for event in (a, b))
            if known and _apart(a, b):
                ours.ends[str(a.site)], theirs.ends[str(a.site)] = a, b
