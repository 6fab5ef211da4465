"""Experiments on several ranks against one process: a computation that ranks share is put together, or split.

*Put together*: where ranks hold the terms of a sum, or parts, the reference's own call is executed on what all ranks hold
(on the candidate's values, not the reference's) and every rank is given its part of the result. *Split*: the ranks' calls
are executed on their parts of what the reference holds, and what they give is put together there as the ranks would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, for_framework
from whydiff.errors import ReplayError
from whydiff.locate.ranked import Ranked, Seen, Start, Tie, executors, is_partial, part, wide
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.joint import Joint
from whydiff.pair.replay import replay
from whydiff.pair.shards import Relation
from whydiff.records import Call, Comparison, Event, Payload, Slot

Outputs = Mapping[Slot, Payload]
Value = Callable[[Start, Mapping[int, Executor]], Mapping[int, Any]]
Held = dict[tuple[int, int], dict[Any, Any]]
"""(rank, call) → what it reads, by site."""


class RankedExperiments:
    """Reruns of a reference and of several ranks, by replay."""

    def __init__(self, ranked: Ranked) -> None:
        self.ranked, self.teams = ranked, ranked.teams
        self.order = sorted(self.teams.ranks)
        self._returns = [one for one in ranked.seen if self.teams.calls(one.team)[0].kind == "return"]

    # ------------------------------------------------------------------ outputs

    def reference(self) -> Outputs:
        """What the reference gave back."""
        return {
            output.slot: output.payload for output in self.teams.reference.outputs or () if output.payload is not None
        }

    def candidate(self) -> Outputs:
        """What the ranks gave back, put together; what cannot be is left out."""
        given = {
            rank: {output.slot: output.payload for output in trace.outputs or () if output.payload is not None}
            for rank, trace in self.teams.ranks.items()
        }
        return self.merged(given)

    def merged(self, given: Mapping[int, Mapping[Slot, Payload]]) -> dict[Slot, Payload]:
        """Ranks' outputs put together, by the reference's slots."""
        number = {call.index: n for n, call in enumerate(c for c in self.teams.reference.calls if c.kind == "return")}
        theirs = {
            rank: {call.index: n for n, call in enumerate(c for c in trace.calls if c.kind == "return")}
            for rank, trace in self.teams.ranks.items()
        }
        found: dict[Slot, Payload] = {}
        for one in self._returns:
            for tie in one.reads:
                parts = [
                    given[rank].get(Slot(theirs[rank][one.team.ranks[rank]], tie.shared.ranks[rank].site.slot))
                    for rank in self.order
                ]
                whole = together([p for p in parts if p is not None], tie.relation) if all(parts) else None
                if whole is not None:
                    found[Slot(number[one.team.reference], tie.shared.reference.site.slot)] = whole
        return found

    # ------------------------------------------------------------------ the ranks, put together

    def put_together(self, starts: Sequence[Start]) -> Outputs:
        """What the ranks give where each of these computations is one.

        Raises:
            ReplayError: one of them cannot be put together.
        """
        whole, places = _Whole(self, starts), _by_team(starts)
        replays = executors(self.teams.ranks)
        changed: dict[tuple[int, int], list[tuple[Event, Any]]] = {}

        def meet(number: int) -> None:
            for start in places[number]:
                self._give(replays, start, whole, changed)

        def after(rank: int, executor: Executor, call: Call) -> None:
            for change in changed.pop((rank, call.index), ()):
                _overwrite(executor, change)

        meetings = [several[0].seen.team.ranks for several in places]
        joint = Joint(replays, before=whole.keep, watch=after, meetings=meetings, meet=meet)
        return self.merged(joint.run().outputs)

    def _give(self, replays: Mapping[int, Executor], start: Start, whole: _Whole, changed: dict[Any, Any]) -> None:
        relation, made = start.tie.relation, start.tie.slot == "writes"
        if relation is None:
            raise ReplayError("The ranks do not make this up together.", where=str(start.tie.shared.reference.site))
        if made:
            for rank, index in start.seen.team.ranks.items():
                whole.keep(rank, replays[rank], self.teams.ranks[rank].calls[index], asked=True)
        value = whole.of(start.tie.shared.reference, start.seen if made else None)
        for position, rank in enumerate(self.order):
            event, mine = start.tie.shared.ranks[rank], part(value, relation, position)
            if made:
                changed.setdefault((rank, start.seen.team.ranks[rank]), []).append((event, mine))
            else:
                _overwrite(replays[rank], (event, mine))

    def corrected(self, starts: Sequence[Start], value: Value) -> Outputs:
        """What the ranks give where each of these values is another one, made of what they hold.

        Args:
            starts: at which they meet.
            value: (place, replays) → rank → what it holds from then on.
        """
        replays, places = executors(self.teams.ranks), _by_team(starts)

        def meet(number: int) -> None:
            for start in places[number]:
                for rank, given in value(start, replays).items():
                    _overwrite(replays[rank], (start.tie.shared.ranks[rank], given))

        meetings = [several[0].seen.team.ranks for several in places]
        return self.merged(Joint(replays, meetings=meetings, meet=meet).run().outputs)

    # ------------------------------------------------------------------ the reference, split

    def split(self, starts: Sequence[Start], rounding: Callable[[Seen, Payload], Payload] | None = None) -> Outputs:
        """What the reference gives where each of these computations is split over the ranks.

        Args:
            starts: where the ranks' results are put together.
            rounding: what a rank's term becomes on its way to the others; None: it stays.

        Raises:
            ReplayError: one of them cannot be split.
        """
        roots = {one.team.reference: one for start in starts for one in self.roots(start)}
        tools = executors(self.teams.ranks)
        made: dict[int, list[tuple[Event, Any]]] = {}

        def before(executor: Executor, call: Call) -> None:
            one = roots.get(call.index)
            if one is None:
                return
            parts = [
                self._part_of(executor, tools[rank], one, rank, at, rounding) for at, rank in enumerate(self.order)
            ]
            made[call.index] = [
                (tie.shared.reference, _joined(executor, [p[i] for p in parts], tie.relation, rounding, one))
                for i, tie in enumerate(one.writes)
                if tie.relation is not None
            ]

        def after(executor: Executor, call: Call) -> None:
            for event, value in made.pop(call.index, ()):
                _overwrite(executor, (event, value))

        done = replay(
            for_framework(self.teams.reference.framework).executor(self.teams.reference), before=before, watch=after
        )
        return done.outputs

    def _part_of(
        self, executor: Executor, tool: Executor, one: Seen, rank: int, position: int, rounding: Any
    ) -> list[Payload]:
        ties = {tie.shared.ranks[rank].site: tie for tie in one.reads}
        call = self.teams.ranks[rank].calls[one.team.ranks[rank]]
        given = {}
        for event in call.reads:
            tie = ties.get(event.site)
            if tie is None or tie.relation is None:
                raise ReplayError("A part of what this call reads is not known.", where=str(event.site))
            given[event.site] = part(executor.copy(executor.read(tie.shared.reference)), tie.relation, position)
        made = [tool.payload(value) for value in applied(tool, call, given)]
        return made if rounding is None else [rounding(one, payload) for payload in made]

    def roots(self, start: Start) -> tuple[Seen, ...]:
        """Teams whose results are the terms, or parts, that are put together at a place."""
        if start.tie.slot == "writes":
            return (start.seen,)
        found: dict[int, Seen] = {}
        line = [start.tie.shared.reference]
        while line:
            one = self.ranked.written.get(line.pop().producer)
            if one is None or one.team.reference in found or not is_partial(one.writes):
                continue
            terms = [tie.shared.reference for tie in one.reads if is_partial((tie,))]
            line += terms
            if not terms:
                found[one.team.reference] = one
        return tuple(found.values())


class _Whole:
    """Values that ranks make up together, made of what they hold, by the reference's own calls."""

    def __init__(self, experiments: RankedExperiments, starts: Sequence[Start]) -> None:
        self._of = experiments
        self._tool = for_framework(experiments.teams.reference.framework).executor(experiments.teams.reference)
        self._held: Held = {}
        self._made: dict[int, list[Any]] = {}
        self._wanted = {
            (rank, index) for start in starts for one in self._behind(start) for rank, index in one.team.ranks.items()
        }

    def _behind(self, start: Start) -> tuple[Seen, ...]:
        found: dict[int, Seen] = {}
        line = [] if start.tie.slot == "writes" else [start.tie.shared.reference]
        while line:
            one = self._of.ranked.written.get(line.pop().producer)
            if one is not None and one.team.reference not in found and is_partial(one.writes):
                found[one.team.reference] = one
                line += [tie.shared.reference for tie in one.reads if is_partial((tie,))]
        return tuple(found.values())

    def keep(self, rank: int, executor: Executor, call: Call, *, asked: bool = False) -> None:
        """Keep what a call is about to read, if it is, or will be, asked for."""
        if asked or (rank, call.index) in self._wanted:
            self._held[rank, call.index] = {
                event.site: executor.payload(executor.read(event)) for event in call.reads if not event.overwritten
            }

    def of(self, event: Event, seen: Seen | None = None) -> Any:
        """The whole behind one of the reference's events; ``seen``: the team that is about to make it.

        Raises:
            ReplayError: what it is made of is not known.
        """
        one = seen or self._of.ranked.written.get(event.producer)
        if one is None:
            raise ReplayError("What this value is made of is not known.", where=str(event.site))
        call = self._of.teams.reference.calls[one.team.reference]
        if call.index not in self._made:
            given = {tie.shared.reference.site: self._read(one, tie) for tie in one.reads}
            self._made[call.index] = applied(self._tool, call, given)
        position = next((i for i, write in enumerate(call.writes) if write.storage == event.storage), 0)
        return _looked(self._tool, self._made[call.index][position], call.writes[position], event)

    def _read(self, one: Seen, tie: Tie) -> Any:
        maker = self._of.ranked.written.get(tie.shared.reference.producer)
        if is_partial((tie,)) and maker is not None and is_partial(maker.writes):
            return self.of(tie.shared.reference)
        held = [
            self._held.get((rank, one.team.ranks[rank]), {}).get(tie.shared.ranks[rank].site) for rank in self._of.order
        ]
        whole = together([h for h in held if h is not None], tie.relation) if all(h is not None for h in held) else None
        if whole is None:
            raise ReplayError("A part of what a rank reads was not kept.", where=str(tie.shared.reference.site))
        return self._tool.adopt_foreign(whole)


def _by_team(starts: Sequence[Start]) -> list[list[Start]]:
    found: dict[int, list[Start]] = {}
    for start in starts:
        found.setdefault(start.seen.team.reference, []).append(start)
    return list(found.values())


def applied(tool: Executor, call: Call, given: Mapping[Any, Any]) -> list[Any]:
    """What a call gives on other values, laid out as those that it read.

    Raises:
        ReplayError: a value is missing or has another shape.
    """
    for event in call.reads:
        if event.site not in given or not tool.stand_in(event, given[event.site]):
            raise ReplayError("A call cannot be given this value.", where=str(event.site))
    reads = [tool.read(event) for event in call.reads]
    found = list(tool.apply(call, reads))
    tool.release(call)
    return found or [reads[i] for i in call.mutates]


def together(parts: Sequence[Payload], relation: Relation | None) -> Payload | None:
    """Ranks' payloads as one; None: they are not one, or replicas differ."""
    if relation is None:
        return None
    first, scale = parts[0], relation.scale
    if relation.layout == "replicated":
        nans = first.bits.dtype.kind == "f"
        same = all(np.array_equal(first.bits, other.bits, equal_nan=nans) for other in parts)
        bits = first.bits if same else None
    elif relation.layout == "split":
        bits = np.concatenate([payload.bits for payload in parts], axis=relation.axis)
    else:
        bits = first.bits
        total = sum((wide(payload) for payload in parts[1:]), start=wide(first)) * scale
        return Payload(total, "float64") if first.dtype != "float32" else Payload(total.astype(np.float32), "float32")
    if bits is None:
        return None
    if scale == 1:
        return Payload(bits, first.dtype)
    if first.dtype not in ("float32", "float64"):
        return Payload(wide(Payload(bits, first.dtype)) * scale, "float64")
    return Payload((bits * np.asarray(scale, bits.dtype)).astype(bits.dtype), first.dtype)


def _joined(executor: Executor, parts: Sequence[Payload], relation: Relation | None, rounding: Any, one: Seen) -> Any:
    if relation is None or relation.layout != "partial":
        whole = together(parts, relation)
        if whole is None:
            raise ReplayError("What ranks made of equal values is not equal.")
        return executor.adopt_foreign(whole)
    values = [executor.adopt_foreign(payload) for payload in parts]
    total = values[0]
    for value in values[1:]:
        total = total + value
    if rounding is not None:
        total = executor.adopt_foreign(rounding(one, executor.payload(total)))
    return total * relation.scale if relation.scale != 1 else total


def _looked(tool: Executor, value: Any, written: Event, event: Event) -> Any:
    """What an event shows of a value that a call wrote."""
    ours, theirs = written.spec, event.spec
    if (ours.shape, ours.strides, ours.offset) == (theirs.shape, theirs.strides, theirs.offset):
        return value
    payload = tool.payload(value)
    step = payload.bits.itemsize
    memory = np.ascontiguousarray(payload.bits)
    dense = tuple(s // step for s in memory.strides)
    if dense != ours.strides and ours.strides and memory.size:
        order = np.argsort([-s for s in ours.strides], kind="stable")
        memory = np.ascontiguousarray(memory.transpose(order))
    begin = theirs.offset - ours.offset
    flat = memory.reshape(-1)[begin:]
    bits = np.lib.stride_tricks.as_strided(flat, theirs.shape, [s * step for s in theirs.strides])
    return tool.adopt_foreign(Payload(np.ascontiguousarray(bits), payload.dtype))


def _overwrite(executor: Executor, change: tuple[Event, Any] | None) -> None:
    if change is not None and not executor.overwrite(*change):
        raise ReplayError("A value cannot be put in the place of this one.", where=str(change[0].site))


def apart(reference: Outputs, candidate: Outputs) -> tuple[float, int, int]:
    """Mean absolute difference over all outputs that both have, differing elements, elements."""
    total, differing, count = 0.0, 0, 0
    for slot, ours in reference.items():
        theirs = candidate.get(slot)
        if theirs is None or theirs.bits.shape != ours.bits.shape:
            continue
        a, b = wide(ours), wide(theirs)
        total += float(np.nansum(np.abs(a - b)))
        differing += int(np.sum(~((a == b) | (np.isnan(a) & np.isnan(b)))))
        count += a.size
    return (total / count if count else 0.0), differing, count


def compared(reference: Payload, candidate: Payload) -> Comparison:
    """One output of both."""
    return compare_payloads(reference, candidate)
