"""Whether replicas stay equal: state of a model that was the same on some ranks, and is not any more.

No placement is read from a program. A tensor is a replica on those ranks that hold the same bits; zeros and ones alone do
not show it, because shards begin with them as well. What is compared is how a tensor's values follow each other on each
rank, not what it is in a step of the same number: one rank may take passes of its own (an evaluation, smaller batches).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from whydiff.capturing.steps import StepLog
from whydiff.records import Site, Trace
from whydiff.studies.ranks.state import Digest, Look, Name, digests, looks, state


@dataclass(frozen=True, slots=True)
class Held:
    """A value that a rank's tensor has for some steps: the first and the last look at it."""

    first: Look | Digest
    last: Look | Digest


History = list[Held]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """A replica that is not one any more.

    Attributes:
        name: of the parameter or buffer.
        step: the first at which the first of ``ranks`` has other bits.
        since: the last step before at which it has the same.
        ranks: those that hold other bits than most; of two, or where it is a tie, those that differ from the lowest.
        site: where the first of them reads it; None: the update of that step finds it so (of a log of steps).
        among: the ranks that held the same.
    """

    name: str
    step: int
    since: int
    ranks: tuple[int, ...]
    site: Site | None
    among: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Replicas:
    """What was found of all state.

    Attributes:
        drifts: in order of their steps.
        equal: names of replicas that stayed equal.
        never: names that were never the same on two ranks: shards, as a rule.
        parted: names that began as the same zeros or ones, and are not the same since: shards, or replicas that drifted.
        partly: names that some ranks hold alike, and others not: (name, groups of ranks that stayed equal).
        alone: names that no two ranks read in one layout.
        steps: how many were compared.
    """

    drifts: tuple[Drift, ...]
    equal: tuple[str, ...]
    never: tuple[str, ...]
    parted: tuple[str, ...]
    partly: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...]
    alone: tuple[str, ...]
    steps: int


def replicas(traces: Mapping[int, Trace]) -> Replicas:
    """Compare every rank's state, value by value."""
    every = {leaf.name for trace in traces.values() for leaf in state(trace)}
    return _compared({rank: looks(trace) for rank, trace in traces.items()}, every)


def logged(logs: Mapping[int, StepLog]) -> Replicas:
    """Compare every rank's parameters and buffers, as logs of steps have them."""
    every = {name for log in logs.values() for step in log.steps for name in step.names}
    return _compared({rank: (one for step in log.steps for one in digests(step)) for rank, log in logs.items()}, every)


def _compared(seen: Mapping[int, Iterator[tuple[Name, Any]]], every: set[str]) -> Replicas:
    held: dict[tuple[Name, Any], dict[int, History]] = {}
    steps: dict[tuple[Name, Any], dict[int, set[int]]] = {}
    for rank, found in seen.items():
        for name, look in found:
            key = name, look.layout
            steps.setdefault(key, {}).setdefault(rank, set()).add(look.step)
            history = held.setdefault(key, {}).setdefault(rank, [])
            if history and history[-1].first.bits == look.bits:
                history[-1] = Held(history[-1].first, look)
            else:
                history.append(Held(look, look))
    shared = {key: histories for key, histories in held.items() if len(histories) > 1}
    by_name: dict[Name, list[_Followed]] = {}
    for (name, _), histories in sorted(shared.items(), key=lambda item: item[0][0]):
        by_name.setdefault(name, []).append(_followed(_told(name), histories))
    alone = every - {part for name in by_name for part in name[0]}
    common = set[int]().union(*(set.intersection(*steps[key].values()) for key in shared))
    return _sorted_out(by_name, tuple(sorted(seen)), tuple(sorted(alone)), len(common))


def _told(name: Name) -> str:
    return " or ".join(name[0]) + (f" ({name[1]})" if name[1] else "")


@dataclass(slots=True)
class _Followed:
    """What became of one tensor: drifts, groups of ranks that stayed equal, and whether it began alike and plain."""

    drifts: list[Drift]
    equal: list[tuple[int, ...]]
    parted: bool = False


def _sorted_out(
    by_name: Mapping[Name, list[_Followed]], ranks: tuple[int, ...], alone: tuple[str, ...], steps: int
) -> Replicas:
    drifts, equal, never, parted = list[Drift](), list[str](), list[str](), list[str]()
    partly = list[tuple[str, tuple[tuple[int, ...], ...]]]()
    for name, found in by_name.items():
        text = _told(name)
        groups = tuple(dict.fromkeys(group for one in found for group in one.equal))
        drifted = [drift for one in found for drift in one.drifts]
        if drifted:
            drifts.append(min(drifted, key=lambda drift: drift.step))
        elif any(one.parted for one in found):
            parted.append(text)
        elif groups == (ranks,):
            equal.append(text)
        elif groups:
            partly.append((text, groups))
        else:
            never.append(text)
    drifts.sort(key=lambda drift: drift.step)
    return Replicas(tuple(drifts), tuple(equal), tuple(never), tuple(parted), tuple(partly), alone, steps)


def _followed(name: str, histories: Mapping[int, History]) -> _Followed:
    """Groups of ranks whose values begin alike, and what becomes of each."""
    found, groups = _Followed([], []), _alike(histories, 0)
    while groups:
        group = groups.pop()
        part = {rank: histories[rank] for rank in group}
        at = _parting(part)
        if at is None:
            found.equal.append(group)
        elif all(one.first.is_plain for history in part.values() for one in history[:at]):
            found.parted = True
            groups += _alike({rank: history for rank, history in part.items() if len(history) > at}, at)
        else:
            found.drifts.append(_drift(name, part, at))
    found.equal.sort()
    return found


def _alike(histories: Mapping[int, History], at: int) -> list[tuple[int, ...]]:
    """Groups of two ranks or more whose value of a number is the same."""
    groups: dict[Hashable, list[int]] = {}
    for rank, history in histories.items():
        groups.setdefault(history[at].first.bits, []).append(rank)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _parting(part: Mapping[int, History]) -> int | None:
    """The first value that is not the same on all ranks that come to it, or that one of them never takes; None: none is."""
    for at in range(1, max(map(len, part.values()))):
        come = {history[at].first.bits for history in part.values() if len(history) > at}
        if len(come) > 1 or _stayed(part, at):
            return at
    return None


def _stayed(part: Mapping[int, History], at: int) -> tuple[int, ...]:
    """Ranks that still hold an older value when others have the next one; where moments are not exact: had it long."""
    following = min(history[at].first.when for history in part.values() if len(history) > at)
    lasting = ((rank, history[-1].last) for rank, history in part.items() if len(history) <= at)
    return tuple(rank for rank, look in lasting if look.when > following or (look.exact and look.when == following))


def _drift(name: str, part: Mapping[int, History], at: int) -> Drift:
    stayed = _stayed(part, at)
    found: dict[int, Hashable] = {
        rank: history[min(at, len(history) - 1)].first.bits
        for rank, history in part.items()
        if len(history) > at or rank in stayed
    }
    ranks = _odd(found)
    history = part[ranks[0]]
    new = len(history) > at
    other = history[at].first if new else history[-1].last
    since = history[at - 1].last.step if new else history[-1].first.step
    return Drift(name=name, step=other.step, since=since, ranks=ranks, site=other.place, among=tuple(part))


def _odd(found: Mapping[int, Hashable]) -> tuple[int, ...]:
    values = [*found.values()]
    most = max(values, key=values.count)  # the first of several: the lowest rank's
    return tuple(rank for rank, value in found.items() if value != most)
