"""Where several ranks part from one process: first in float64, where rounding is gone, then as they were run.

In float64 every value of the reference either is what the ranks' values make up together (`whydiff.pair.shards`), or
it is not. A call whose inputs are and whose output is not is an origin that no rounding explains. As they were run, ranks
are given their part of the reference's values wherever they had come to other bits; the places where that is needed are
the origins of rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, executor_of
from whydiff.errors import PayloadError, ReplayError
from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import RANKS_NOISE
from whydiff.pair.joint import Joint, Together
from whydiff.pair.replay import replay
from whydiff.pair.shards import Relation, close, norm, order, related
from whydiff.pair.teams import Shared, Slot, Team, Teams
from whydiff.records import Call, Collective, Event, Lift, Payload, Site, Trace

Array = Any
BUDGET = 4 << 30
"""Bytes of float64 values that are held at once; beyond it nothing more is related, and that is counted."""


_SLOTS: tuple[Slot, Slot] = ("reads", "writes")


@dataclass(frozen=True, slots=True)
class Tie:
    """One value of a team.

    Attributes:
        slot, shared: which.
        relation: how the ranks make up the reference's; None: they do not.
        noise: it is the rest of a cancellation: nothing but rounding, at any precision.
        lasting: several steps read this memory of its lowest rank: a parameter, say.
        agreeing: where there is no relation: positions of ranks that have the reference's whole value.
        order: where there is none, and ranks have parts of the whole, but not each its own: which part each has.
    """

    slot: Slot
    shared: Shared
    relation: Relation | None
    noise: bool = False
    lasting: bool = False
    agreeing: tuple[int, ...] = ()
    order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """One team with everything that it reads and writes."""

    team: Team
    reads: tuple[Tie, ...]
    writes: tuple[Tie, ...]

    @property
    def agrees(self) -> bool:
        """Whether the ranks make up everything that the reference reads here."""
        return all(tie.relation is not None for tie in self.reads)


@dataclass(frozen=True, slots=True)
class Start:
    """A place where ranks part from the reference.

    Attributes:
        seen: the team at which it shows.
        tie: the value that shows it.
        exact: it stays in float64: no rounding.
        exchange: lowest rank's call of the collective behind the value; None: there is none on the way.
        leaf: name of the leaf, where the ranks begin with another one; empty: a call made it.
    """

    seen: Seen
    tie: Tie
    exact: bool
    exchange: Call | None = None
    leaf: str = ""


@dataclass(frozen=True)
class Ranked:
    """One process against several ranks, as far as it was found where they part.

    Attributes:
        teams: which calls correspond.
        seen: teams with relations, in the reference's order.
        starts: those that stay in float64, in order.
        roundings: those at the precision of the run.
        shares: every place at which a computation that the ranks share is put together, whether or not its bits differ.
        together: what executing all ranks together gave, as they were run.
        unrelated: values beyond the budget.
    """

    teams: Teams
    seen: tuple[Seen, ...]
    starts: tuple[Start, ...]
    roundings: tuple[Start, ...] = ()
    shares: tuple[Start, ...] = ()
    together: Together = field(default_factory=lambda: Together({}))
    unrelated: int = 0

    @property
    def written(self) -> Mapping[int, Seen]:
        """Reference call → its team."""
        return {seen.team.reference: seen for seen in self.seen}


def executors(traces: Mapping[int, Trace], lift: Lift | None = None) -> dict[int, Executor]:
    """A replay of every rank."""
    return {rank: executor_of(trace, lift=lift) for rank, trace in traces.items()}


class Values:
    """Values of events in float64, as they were when a call read or had written them."""

    def __init__(self, wanted: frozenset[Site]) -> None:
        self.wanted = wanted
        self.found: dict[Site, Array] = {}
        self.bytes = 0

    def before(self, executor: Executor, call: Call) -> None:
        """Look at what a call is about to read."""
        self._look(executor, call.reads)

    def after(self, executor: Executor, call: Call) -> None:
        """Look at what a call wrote."""
        self._look(executor, call.writes)

    def _look(self, executor: Executor, events: tuple[Event, ...]) -> None:
        for event in events:
            if event.site in self.wanted and self.bytes < BUDGET:
                with suppress(ReplayError, PayloadError):  # what a call did not give is counted where it is missing
                    array = wide(executor.payload(executor.read(event)))
                    self.found[event.site] = array
                    self.bytes += array.nbytes


def wide(payload: Payload) -> Array:
    """A payload's values in float64 (complex128)."""
    found = np.asarray(values(payload.bits, payload.dtype))
    return found.astype(np.complex128 if found.dtype.kind == "c" else np.float64)


def relate(teams: Teams) -> tuple[tuple[Seen, ...], int]:
    """Every team with its relations, in float64; and how many values are missing: beyond the budget, or not given."""
    all_shared = [one for team in teams.teams for slot in _SLOTS for one in teams.shared(team, slot)]
    ours, rough = (Values(frozenset(one.reference.site for one in all_shared)) for _ in range(2))
    theirs = {
        rank: Values(frozenset(one.ranks[rank].site for one in all_shared if rank in one.ranks)) for rank in teams.ranks
    }
    lift = Lift("float64")
    replay(executor_of(teams.reference, lift=lift), before=ours.before, watch=ours.after)
    replay(executor_of(teams.reference, lift=Lift("float32")), before=rough.before, watch=rough.after)
    Joint(
        executors(teams.ranks, lift),
        before=lambda rank, executor, call: theirs[rank].before(executor, call),
        watch=lambda rank, executor, call: theirs[rank].after(executor, call),
    ).run()
    lost, lasting = 0, {rank: _lasting(trace) for rank, trace in teams.ranks.items()}

    def tie(slot: Slot, one: Shared) -> Iterator[Tie]:
        nonlocal lost
        whole, near = (side.found.get(one.reference.site) for side in (ours, rough))
        known = [theirs[rank].found.get(one.ranks[rank].site) for rank in sorted(one.ranks)]
        parts = [part for part in known if part is not None]
        if whole is None or near is None or len(parts) < len(known):
            lost += 1
        else:
            noise = RANKS_NOISE * norm(near - whole)
            relation = related(whole, parts, noise)
            lone = relation is None
            yield Tie(
                slot=slot,
                shared=one,
                relation=relation,
                noise=norm(whole) <= noise,
                lasting=one.event.storage in lasting[one.lead],
                agreeing=tuple(i for i, p in enumerate(parts) if lone and p.shape == whole.shape and close(whole, p)),
                order=order(whole, parts) if lone and slot == "reads" else (),
            )

    found = []
    for team in teams.teams:
        reads, writes = (
            tuple(found for one in teams.shared(team, slot) for found in tie(slot, one)) for slot in _SLOTS
        )
        found.append(Seen(team, reads, writes))
    return _settled(found), lost


def _settled(seen: Sequence[Seen]) -> tuple[Seen, ...]:
    """Noise is related as values of the same operator's other calls are: its own numbers tell nothing."""
    known: dict[Any, Counter[Relation]] = {}

    def key(tie: Tie) -> Any:
        site, spec = tie.shared.reference.site, tie.shared.reference.spec
        alike = tuple(event.spec.shape == spec.shape for event in tie.shared.ranks.values())
        return site.op, site.phase, site.slot, len(spec.shape), alike

    def settled(tie: Tie) -> Tie:
        found = known.get(key(tie)) if tie.noise else None
        if not found:
            return tie
        relation = found.most_common(1)[0][0]
        sizes = tuple(e.spec.shape[relation.axis] for e in tie.shared.ranks.values()) if relation.axis >= 0 else ()
        return replace(tie, relation=replace(relation, sizes=sizes))

    for tie in (tie for one in seen for tie in (*one.reads, *one.writes) if not tie.noise and tie.relation):
        known.setdefault(key(tie), Counter())[tie.relation or Relation("replicated")] += 1
    return tuple(Seen(s.team, tuple(map(settled, s.reads)), tuple(map(settled, s.writes))) for s in seen)


def _lasting(trace: Trace) -> dict[int, str]:
    """Storages that several steps read, by the leaf's name, else by the place that reads them first."""
    names = {leaf.storage: leaf.name for leaf in trace.leaves if leaf.is_state}
    steps: dict[int, set[int]] = {}
    for call in trace.calls:
        for event in call.reads if call.kind == "compute" else ():
            steps.setdefault(event.storage, set()).add(call.site.step)
            if len(steps[event.storage]) == 1:
                names.setdefault(event.storage, f"what {call.site} reads")
    return {storage: names[storage] for storage, seen in steps.items() if len(seen) > 1 and storage >= 0}


class Paths:
    """Ways back from a value of a team's lowest rank, through calls that are in no team."""

    def __init__(self, teams: Teams) -> None:
        self.calls = {rank: trace.calls for rank, trace in teams.ranks.items()}
        self.teamed = {(rank, index) for team in teams.teams for rank, index in team.ranks.items()}
        self._state = {rank: _lasting(trace) for rank, trace in teams.ranks.items()}
        self._leaves = {
            rank: {leaf.storage: leaf.name for leaf in trace.leaves if leaf.storage >= 0 and leaf.name}
            for rank, trace in teams.ranks.items()
        }

    def state(self, shared: Shared) -> str:
        """Name of what lasts over steps and whose memory a value shows, as it is then; empty: it shows none."""
        return self._state[shared.lead].get(shared.event.storage, "")

    def leaf(self, shared: Shared) -> str:
        """Name of the leaf that a value shows; empty: a call made it."""
        return self._leaves[shared.lead].get(shared.event.storage, "") if shared.event.producer < 0 else ""

    def exchange(self, shared: Shared) -> Call | None:
        """The nearest collective behind a value; None: a call that is in a team, or nothing, is nearer."""
        line, known = [shared.event.producer], set[int]()
        while line:
            index = line.pop(0)
            if index < 0 or index in known or (shared.lead, index) in self.teamed:
                continue
            known.add(index)
            call = self.calls[shared.lead][index]
            if Collective.of(call.arguments) is not None:
                return call
            line += [read.producer for read in call.reads if not read.overwritten]
        return None


def starts(teams: Teams, seen: tuple[Seen, ...]) -> tuple[Start, ...]:
    """Where ranks part from the reference although nothing is rounded."""
    paths, found = Paths(teams), list[Start]()
    leaves, exchanges = set[str](), set[tuple[int, int]]()
    for one in seen:
        for tie in (tie for tie in one.reads if tie.relation is None):
            shared = tie.shared
            leaf, exchange = paths.leaf(shared), paths.exchange(shared)
            if leaf and leaf not in leaves:
                leaves.add(leaf)
                found.append(Start(one, tie, exact=True, leaf=leaf))
            elif tie.agreeing and paths.state(shared) and paths.state(shared) not in leaves:
                leaves.add(paths.state(shared))
                found.append(Start(one, tie, exact=True, leaf=paths.state(shared)))
            elif exchange is not None and (shared.lead, exchange.index) not in exchanges:
                exchanges.add((shared.lead, exchange.index))
                found.append(Start(one, tie, exact=True, exchange=exchange))
        broken = [tie for tie in one.writes if tie.relation is None]
        if one.agrees and broken:
            found.append(Start(one, broken[0], exact=True))
    return tuple(found)


def roundings(teams: Teams, seen: tuple[Seen, ...]) -> tuple[tuple[Start, ...], Together]:
    """Where ranks, given their part of the reference's values before, come to other bits; and what the ranks gave.

    What they gave is of a second replay, in which nothing was put right.
    """
    walk = _Walk(teams, seen)
    replay(executor_of(teams.reference), before=walk.keep, watch=walk.keep_written)
    Joint(executors(teams.ranks), before=walk.reads, watch=walk.writes).run()
    return tuple(walk.found.values()), Joint(executors(teams.ranks)).run()


class _Walk:
    def __init__(self, teams: Teams, seen: tuple[Seen, ...]) -> None:
        self.teams, self.paths = teams, Paths(teams)
        self.found: dict[tuple[int, int, int], Start] = {}
        self._at = {(rank, index): one for one in seen for rank, index in one.team.ranks.items()}
        self._wanted = {tie.shared.reference.site for one in seen for tie in (*one.reads, *one.writes) if tie.relation}
        self._kept: dict[Site, Any] = {}

    def keep(self, executor: Executor, call: Call) -> None:
        for event in call.reads:
            if event.site in self._wanted:
                self._kept[event.site] = executor.copy(executor.read(event))

    def keep_written(self, executor: Executor, call: Call) -> None:
        for event in call.writes:
            if event.site in self._wanted:
                self._kept[event.site] = executor.copy(executor.read(event))

    def reads(self, rank: int, executor: Executor, call: Call) -> None:
        seen = self._at.get((rank, call.index))
        for tie in seen.reads if seen is not None else ():
            self._check(rank, executor, seen, tie)

    def writes(self, rank: int, executor: Executor, call: Call) -> None:
        seen = self._at.get((rank, call.index))
        for tie in seen.writes if seen is not None else ():
            self._check(rank, executor, seen, tie)

    def _check(self, rank: int, executor: Executor, seen: Any, tie: Tie) -> None:
        relation, event = tie.relation, tie.shared.ranks[rank]
        if relation is None or relation.layout in ("partial", "norm") or not relation.exact or tie.noise:
            return
        expected = part(self._kept[tie.shared.reference.site], relation, sorted(tie.shared.ranks).index(rank))
        if executor.same(expected, executor.read(event)) or not executor.overwrite(event, expected):
            return
        exchange = self.paths.exchange(tie.shared) if tie.slot == "reads" else None
        key = (-1, -1, seen.team.reference) if exchange is None else (tie.shared.lead, exchange.index, -1)
        self.found.setdefault(key, Start(seen, tie, exact=False, exchange=exchange))


def part(whole: Any, relation: Relation, position: int) -> Any:
    """A rank's part of a value of the reference."""
    found = whole[relation.index(position)] if relation.layout == "split" else whole
    return found if relation.scale == 1 else found / relation.scale


def locate_ranked(teams: Teams) -> Ranked:
    """Everything that can be said of where several ranks part from one process."""
    seen, lost = relate(teams)
    found = starts(teams, seen)
    rounded, together = roundings(teams, seen)
    return Ranked(teams, seen, found, rounded, (*shares(teams, seen), *_alone(rounded)), together, lost)


def shares(teams: Teams, seen: tuple[Seen, ...]) -> Iterator[Start]:
    """Every value that is what a collective made of terms that the ranks hold."""
    paths, written = Paths(teams), {one.team.reference: one for one in seen}
    for one in seen:
        for tie in one.reads:
            maker = written.get(tie.shared.reference.producer)
            if (
                maker is None
                or tie.relation is None
                or tie.relation.layout == "partial"
                or not is_partial(maker.writes)
            ):
                continue
            exchange = paths.exchange(tie.shared)
            if exchange is not None:
                yield Start(one, tie, exact=False, exchange=exchange)


def _alone(rounded: Sequence[Start]) -> Iterator[Start]:
    """Calls that give other bits on a part than on the whole, with everything that they write."""
    for start in rounded:
        if start.tie.slot == "writes":
            for tie in start.seen.writes:
                yield Start(start.seen, tie, exact=False)


def is_partial(ties: Sequence[Tie]) -> bool:
    """Whether ranks hold terms of a sum."""
    return any(tie.relation is not None and tie.relation.layout == "partial" for tie in ties)
