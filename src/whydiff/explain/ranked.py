"""Experiments on several ranks against one process: a computation that ranks share is put together, or split.

*Put together*: where ranks hold the terms of a sum, or parts, the reference's own call is executed on what all ranks hold
(on the candidate's values, not the reference's) and every rank is given its part of the result. *Split*: the ranks' calls
are executed on their parts of what the reference holds, and what they give is put together there as the ranks would.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from whydiff.capturing.adapters import Executor, executor_of
from whydiff.errors import ReplayError
from whydiff.explain.assembling import Outputs, applied, as_presumed, joined, looked, overwrite, together
from whydiff.locate.ranked import Ranked, Seen, Start, Tie, executors, is_partial, part
from whydiff.pair.joint import Joint
from whydiff.pair.replay import replay, returns
from whydiff.records import Call, Event, Lift, Payload, Slot

EXACT = Lift("float64")
"""Nothing is rounded, so that what differs is another computation."""
Value = Callable[[Start, Mapping[int, Executor]], Mapping[int, Any]]
Held = dict[tuple[int, int], dict[Any, Any]]
"""(rank, call) → what it reads, by site."""


class RankedExperiments:
    """Reruns of a reference and of several ranks, by replay."""

    def __init__(self, ranked: Ranked) -> None:
        self.ranked, self.teams = ranked, ranked.teams
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

    def of_both(self, given: Outputs) -> dict[Slot, Payload]:
        """The reference's outputs that the ranks give back as well."""
        return {slot: payload for slot, payload in given.items() if slot in self._slots}

    @functools.cached_property
    def _slots(self) -> frozenset[Slot]:
        number = returns(self.teams.reference.calls)
        return frozenset(
            Slot(number[one.team.reference], tie.shared.reference.site.slot)
            for one in self._returns
            for tie in one.reads
        )

    def merged(self, given: Mapping[int, Mapping[Slot, Payload]]) -> dict[Slot, Payload]:
        """Ranks' outputs put together, by the reference's slots."""
        number = returns(self.teams.reference.calls)
        theirs = {rank: returns(trace.calls) for rank, trace in self.teams.ranks.items()}
        found: dict[Slot, Payload] = {}
        for one in self._returns:
            for tie in one.reads:
                parts = [
                    given[rank].get(Slot(theirs[rank][one.team.ranks[rank]], tie.shared.ranks[rank].site.slot))
                    for rank in sorted(tie.shared.ranks)
                ]
                relation = tie.relation or as_presumed(tie)
                whole = together([p for p in parts if p is not None], relation) if all(parts) else None
                if whole is not None:
                    found[Slot(number[one.team.reference], tie.shared.reference.site.slot)] = whole
        return found

    # ------------------------------------------------------------------ the ranks, put together

    def put_together(self, starts: Sequence[Start], *, lift: Lift | None = None, apart: bool = False) -> Outputs:
        """What the ranks give where each of these computations is one.

        Raises:
            ReplayError: one of them cannot be put together.
        """
        whole, places = _Whole(self, starts, lift, apart), _by_team(starts)
        replays = executors(self.teams.ranks, lift)
        changed: dict[tuple[int, int], list[tuple[Event, Any]]] = {}

        def meet(number: int) -> None:
            for start in places[number]:
                self._give(replays, start, whole, changed)

        def after(rank: int, executor: Executor, call: Call) -> None:
            for change in changed.pop((rank, call.index), ()):
                overwrite(executor, change)

        meetings = [several[0].seen.team.ranks for several in places]
        joint = Joint(replays, before=whole.keep, watch=after, meetings=meetings, meet=meet)
        return self.merged(joint.run().outputs)

    def _give(self, replays: Mapping[int, Executor], start: Start, whole: _Whole, changed: dict[Any, Any]) -> None:
        relation, made = start.tie.relation or as_presumed(start.tie), start.tie.slot == "writes"
        if relation is None:
            raise ReplayError("The ranks do not make this up together.", where=str(start.tie.shared.reference.site))
        if made:
            for rank, index in start.seen.team.ranks.items():
                whole.keep(rank, replays[rank], self.teams.ranks[rank].calls[index], asked=True)
        value = whole.of(start.tie.shared.reference, start.seen if made else None)
        for position, rank in enumerate(sorted(start.tie.shared.ranks)):
            event, mine = start.tie.shared.ranks[rank], part(value, relation, position)
            if made:
                changed.setdefault((rank, start.seen.team.ranks[rank]), []).append((event, mine))
            else:
                overwrite(replays[rank], (event, mine))

    # ------------------------------------------------------------------ in float64

    @functools.cached_property
    def exact(self) -> tuple[Outputs, Outputs]:
        """What the reference and the ranks give in float64."""
        ours = self.of_both(replay(self._reference(EXACT)).outputs)
        return ours, self.merged(Joint(executors(self.teams.ranks, EXACT)).run().outputs)

    def _reference(self, lift: Lift | None = None) -> Executor:
        return executor_of(self.teams.reference, lift=lift)

    def reference_with(self, starts: Sequence[Start], value: Callable[[Start, Any], Any]) -> Outputs:
        """What the reference gives, in float64, where each of these reads gets another value.

        Args:
            starts: whose values are exchanged.
            value: (place, what is read there) → what is read instead.
        """
        places = {start.tie.shared.reference.site: start for start in starts}

        def before(executor: Executor, call: Call) -> None:
            for event in call.reads:
                start = places.get(event.site)
                if start is not None and not executor.stand_in(
                    event, value(start, executor.copy(executor.read(event)))
                ):
                    raise ReplayError("A value cannot be put in the place of this one.", where=str(event.site))

        return self.of_both(replay(self._reference(EXACT), before=before).outputs)

    @functools.cached_property
    def tool(self) -> Executor:
        """Carries out single calls and changes of values."""
        return self._reference(EXACT)

    def reference_values(self, starts: Sequence[Start]) -> dict[Any, Any]:
        """What the reference reads at places, in float64, by site."""
        wanted, found = {start.tie.shared.reference.site for start in starts}, dict[Any, Any]()

        def before(executor: Executor, call: Call) -> None:
            for event in call.reads:
                if event.site in wanted:
                    found[event.site] = executor.copy(executor.read(event))

        replay(self._reference(EXACT), before=before)
        return found

    def alike(self, start: Start) -> tuple[Start, ...]:
        """The same value at every step: of the same call of the lowest rank, by scope, operator, phase and occurrence."""
        slot, key = start.tie.slot, replace(start.tie.shared.event.site, step=0)
        return tuple(
            Start(one, tie, exact=True)
            for one in self.ranked.seen
            for tie in (one.reads if slot == "reads" else one.writes)
            if replace(tie.shared.event.site, step=0) == key
        )

    def corrected(self, starts: Sequence[Start], value: Value, *, lasting: bool = False) -> Outputs:
        """What the ranks give, in float64, where each of these values is another one, made of what they hold.

        Args:
            starts: at which they meet.
            value: (place, replays) → rank → what it holds there.
            lasting: it holds it from then on; else one call reads it.
        """
        replays, places = executors(self.teams.ranks, EXACT), _by_team(starts)

        def meet(number: int) -> None:
            for start in places[number]:
                for rank, given in value(start, replays).items():
                    event = start.tie.shared.ranks[rank]
                    if lasting or not replays[rank].stand_in(event, given):
                        overwrite(replays[rank], (event, given))

        meetings = [several[0].seen.team.ranks for several in places]
        return self.merged(Joint(replays, meetings=meetings, meet=meet).run().outputs)

    # ------------------------------------------------------------------ the reference, split

    def split(
        self,
        starts: Sequence[Start],
        rounding: Callable[[Seen, Payload], Payload] | None = None,
        *,
        lift: Lift | None = None,
        within: Sequence[Seen] = (),
    ) -> Outputs:
        """What the reference gives where each of these computations is split over the ranks.

        Args:
            starts: where the ranks' results are put together.
            rounding: what a rank's term becomes on its way to the others; None: it stays.
            lift: a precision other than the run's.
            within: teams before, whose results each rank keeps for itself.

        Raises:
            ReplayError: one of them cannot be split.
        """
        roots = {one.team.reference: one for start in starts for one in self.roots(start)}
        tools = executors(self.teams.ranks, lift)
        own: dict[tuple[int, int], list[Payload]] = {}
        inner = {one.team.reference: one for one in within}
        made: dict[int, list[tuple[Event, Any]]] = {}

        def before(executor: Executor, call: Call) -> None:
            one = roots.get(call.index) or inner.get(call.index)
            if one is None:
                return
            parts = [
                self._part_of(executor, tools[rank], one, rank, at, rounding, own)
                for at, rank in enumerate(sorted(one.team.ranks))
            ]
            if call.index in inner:
                own.update({(call.index, rank): parts[at] for at, rank in enumerate(sorted(one.team.ranks))})
                return
            made[call.index] = [
                (tie.shared.reference, joined(executor, [p[i] for p in parts], relation, rounding, one))
                for i, tie in enumerate(one.writes)
                if (relation := tie.relation or as_presumed(tie)) is not None
                and (tie.relation is not None or relation.layout == "split")
            ]

        def after(executor: Executor, call: Call) -> None:
            for event, value in made.pop(call.index, ()):
                overwrite(executor, (event, value))

        return self.of_both(replay(self._reference(lift), before=before, watch=after).outputs)

    def _part_of(
        self, executor: Executor, tool: Executor, one: Seen, rank: int, position: int, rounding: Any, own: Any
    ) -> list[Payload]:
        ties = {tie.shared.ranks[rank].site: tie for tie in one.reads}
        call = self.teams.ranks[rank].calls[one.team.ranks[rank]]
        given = {}
        for event in call.reads:
            tie = ties.get(event.site)
            if tie is None or tie.relation is None:
                raise ReplayError("A part of what this call reads is not known.", where=str(event.site))
            known = own.get((tie.shared.reference.producer, rank))
            if known is not None:
                maker = self.teams.reference.calls[tie.shared.reference.producer].writes[0]
                given[event.site] = looked(tool, tool.adopt_foreign(known[0]), maker, tie.shared.reference)
            else:
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

    def __init__(self, experiments: RankedExperiments, starts: Sequence[Start], lift: Lift | None, apart: bool) -> None:
        self._of, self._apart = experiments, apart
        self._tool = experiments._reference(lift)
        self._tools = executors(experiments.teams.ranks, lift) if apart else {}
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
            if self._apart and not any(self._is_term(tie) for tie in one.reads):
                self._made[call.index] = self._added(one)
            else:
                given = {tie.shared.reference.site: self._read(one, tie) for tie in one.reads}
                self._made[call.index] = applied(self._tool, call, given)
        position = next((i for i, write in enumerate(call.writes) if write.storage == event.storage), 0)
        return looked(self._tool, self._made[call.index][position], call.writes[position], event)

    def _is_term(self, tie: Tie) -> bool:
        """Whether ranks hold terms of this that calls of theirs made."""
        maker = self._of.ranked.written.get(tie.shared.reference.producer)
        return is_partial((tie,)) and maker is not None and is_partial(maker.writes)

    def _added(self, one: Seen) -> list[Any]:
        """The ranks' own terms, added as they are."""
        terms = []
        for rank in sorted(one.team.ranks):
            call = self._of.teams.ranks[rank].calls[one.team.ranks[rank]]
            held = self._held.get((rank, call.index), {})
            tool = self._tools[rank]
            given = {site: tool.adopt_foreign(payload) for site, payload in held.items()}
            terms.append([tool.payload(value) for value in applied(tool, call, given)])
        return [
            joined(self._tool, [term[i] for term in terms], tie.relation, None, one) for i, tie in enumerate(one.writes)
        ]

    def _read(self, one: Seen, tie: Tie) -> Any:
        if self._is_term(tie):
            return self.of(tie.shared.reference)
        held = [
            self._held.get((rank, one.team.ranks[rank]), {}).get(tie.shared.ranks[rank].site)
            for rank in sorted(one.team.ranks)
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
