"""Updates that one side leaves out: ops on one side only that write into what they, and others like them, wrote before.

A loop writes into the same memory again and again: weights, moments, a counter of steps. Where one such round is on one
side alone, what it wrote is put into the other (or kept out of its own side) as a whole, with the numbers that the program
made of it: a count of steps that Python was given is an argument of later ops.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from whydiff.explain.arguments import as_value, given_otherwise
from whydiff.explain.case import Case
from whydiff.pair.lockstep import matched
from whydiff.pair.portions import Portions, in_portions
from whydiff.records import Call, Intervention, Origin, Site, Trace

_Key = tuple[str, tuple[int, ...]]
"""An op, and the memory that it writes into."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Rounds of one kind that one side leaves out.

    Attributes:
        side: which side has them; 0: the reference.
        rounds: their calls, of each round those that lead to what is read later.
        numbers: which rounds of that side they are, from 1.
        count: how many rounds that side has.
        renews: what is written is made of what was there; else it is written over.
        gathered: backward passes add to what is written: gradients.
        exchanged: (reference's, candidate's) sites: in the place of what one side made the other has what was there.
        given: arguments of later ops that follow from it, as the reference has them.
        origins: positions of the origins that are explained so.
    """

    side: int
    rounds: tuple[tuple[Call, ...], ...]
    numbers: tuple[int, ...]
    count: int
    renews: bool
    gathered: bool
    exchanged: tuple[tuple[str, str], ...]
    given: tuple[Intervention, ...]
    origins: tuple[int, ...]

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What takes it away from the candidate: the rounds are inserted, or removed."""
        name = "remove-step" if self.side else "insert-step"
        return (*(Intervention(name, theirs, ours) for ours, theirs in self.exchanged), *self.given)


def left_out(case: Case) -> tuple[Missing, ...]:
    """What either side leaves out, the reference's rounds first; worked out once."""
    return case.shared("rounds left out", lambda: tuple(found for side in (0, 1) for found in _found(case, side)))


def owners(case: Case, found: Missing) -> list[str]:
    """Names of the parameters to which an optimizer's rounds belong; none if they are all that it steps."""
    trace = case.traces[found.side]
    memory = {call.reads[i].storage for calls in found.rounds for call in calls for i in call.mutates}
    own, every = list[str](), set[str]()
    for look in (call for call in trace.calls if call.is_update and call.site.scope == found.rounds[0][0].site.scope):
        parameters = look.arguments[1]["parameters"]
        held = [parameters[int(e.site.slot.partition(".")[0])] for e in look.reads if e.storage in memory]
        own += held
        every.update(parameters)
    own += [leaf.name for leaf in trace.leaves if leaf.storage in memory and leaf.name in every]
    return list(dict.fromkeys(own)) if set(own) < every else []


def is_of_a_round(case: Case, index: int) -> bool:
    """Whether an origin lies in, or follows from, a round that one side leaves out."""
    return any(index in found.origins for found in left_out(case))


@dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring calls of one side without counterparts, as far as they lead to what is read later.

    ``exchanged``: what of it paired calls read, and what the other side has in its place.
    """

    calls: tuple[Call, ...]
    exchanged: tuple[tuple[str, str], ...]
    keys: tuple[_Key, ...]


def _found(case: Case, side: int) -> Iterator[Missing]:
    runs = [run for run in reversed([*_runs(case, side)]) if run.keys]
    written = _written(case, side)
    others = _written(case, 1 - side)
    partner = case.partners[side]
    groups: dict[tuple[_Key, ...], list[_Run]] = {}
    for run in runs:
        if all(_is_repeated(written[key], others, partner, case, side) for key in run.keys):
            groups.setdefault(tuple(dict.fromkeys(run.keys)), []).append(run)
    for keys, found in groups.items():
        inside = {call.index for run in found for call in run.calls}
        own = [i for i, origin in enumerate(case.localization.origins) if _is_own(case, origin, side, inside)]
        if not own:
            continue
        every = [_key(call) for call in found[0].calls if call.mutates]
        anchor = min(keys, key=lambda key: (every.count(key), -len(written[key])))  # once in every round
        times = _times(written[anchor], partner)
        later = dict(_following(case, found[0].calls[0].index, side, times, own))
        yield Missing(
            side=side,
            rounds=tuple(run.calls for run in found),
            numbers=tuple(n for n, index in enumerate(written[anchor], 1) if index in inside),
            count=len(written[anchor]),
            renews=any(_renews(run) for run in found),
            gathered=_is_gathered(case.traces[side], {storage for _, written_in in keys for storage in written_in}),
            exchanged=tuple(dict.fromkeys(pair for run in found for pair in run.exchanged)),
            given=tuple(change for changes in later.values() for change in changes),
            origins=(*own, *later),
        )


def _runs(case: Case, side: int) -> Iterator[_Run]:
    alone = {*(case.alignment.unpaired_reference, case.alignment.unpaired_candidate)[side]} - _portions(case)[side]
    calls = case.traces[side].calls
    together: list[list[Call]] = []
    last: Call | None = None
    for call in calls:
        if call.kind == "view":
            continue
        if call.index in alone:
            if last is None or last.index not in alone:
                together.append([])
            together[-1].append(call)
        last = call
    number = {call.index: n for n, run in enumerate(together) for call in run}
    taken = _taken_up(case, side, number)
    wanted = {maker for found in taken for maker, _ in found or ()}
    for run, found in reversed(list(zip(together, taken, strict=True))):  # what a later one reads leads on too
        if found is not None:
            yield _run(run, found, wanted)


def _portions(case: Case) -> Portions:
    """What one side carries out more often because it takes a step's rows in more portions: no update is missing there."""
    return case.shared("portions", lambda: in_portions(case.reference, case.candidate, case.alignment))


def _taken_up(case: Case, side: int, number: Mapping[int, int]) -> list[dict[tuple[int, int], tuple[str, str]] | None]:
    """Per run: (call, memory) whose value paired calls read → the sites that stand for each other; None: it does not fit."""
    found: list[dict[tuple[int, int], tuple[str, str]] | None] = [{} for _ in {*number.values()}]
    for calls in case.paired():
        for events in matched(*calls, "reads"):
            maker, other = events[side].producer, events[1 - side].producer
            at = found[number[maker]] if maker in number and not events[side].overwritten else None
            if at is None:
                continue
            if other >= 0 and other not in case.partners[1 - side]:
                found[number[maker]] = None
                continue
            sites = [
                str((trace.calls[event.producer] if event.producer >= 0 else call).site)
                for trace, call, event in zip(case.traces, calls, events, strict=True)
            ]
            key = (maker, events[side].storage if other >= 0 else -1 - calls[side].index)
            at[key] = (sites[0], sites[1])
    return found


def _run(run: Sequence[Call], taken: Mapping[tuple[int, int], tuple[str, str]], wanted: set[int]) -> _Run:
    """Of neighbouring calls those that lead to what is wanted later; what they read is wanted too."""
    kept: list[Call] = []
    for call in reversed(run):
        if call.index in wanted:
            kept.append(call)
            wanted.update(event.producer for event in call.reads)
    inside = {call.index for call in run}
    keys = [_key(call) for call in reversed(kept) if any(call.reads[i].producer not in inside for i in call.mutates)]
    return _Run(tuple(reversed(kept)), tuple(taken.values()), tuple(keys))


def _key(call: Call) -> _Key:
    return call.target, tuple(call.reads[i].storage for i in call.mutates)


def _written(case: Case, side: int) -> dict[_Key, list[int]]:
    """Ops that write into what is there, by op and memory → where they are carried out."""
    found: dict[_Key, list[int]] = {}
    for call in case.traces[side].calls:
        if call.mutates and call.kind != "view":
            found.setdefault(_key(call), []).append(call.index)
    return found


def _is_repeated(
    written: Sequence[int], others: Mapping[_Key, Sequence[int]], partner: Mapping[int, int], case: Case, side: int
) -> bool:
    """Whether both sides carry it out at other times, and the other side never on its own: then it was not moved."""
    both = [partner[index] for index in written if index in partner]
    if not both:
        return False
    back = case.partners[1 - side]
    return all(index in back for index in others.get(_key(case.traces[1 - side].calls[both[0]]), ()))


def _is_own(case: Case, origin: Origin, side: int, inside: set[int]) -> bool:
    """Whether nothing but calls of the rounds lies between agreeing inputs and an origin."""
    if origin.kind != "region" or origin.calls[side] not in inside:
        return False
    mine = {str(case.traces[side].calls[index].site) for index in inside}
    return all(str(site.at("")) in mine for site in origin.region)


def _renews(run: _Run) -> bool:
    """Whether what is read later is made of what was there before."""
    return any(not call.reads[i].overwritten for call in run.calls for i in call.mutates)


def _is_gathered(trace: Trace, memory: set[int]) -> bool:
    """Whether backward passes write in place into some memory."""
    passes = (call for call in trace.calls if call.site.phase == "backward")
    return any(call.reads[i].storage in memory for call in passes for i in call.mutates)


# --------------------------------------------------------------------------- numbers that follow


def _times(written: Sequence[int], partner: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Where a round begins: on the side that has them all, on the other."""
    return list(written), [partner[index] for index in written if index in partner]


def _following(
    case: Case, begin: int, side: int, times: tuple[list[int], list[int]], own: Sequence[int]
) -> Iterator[tuple[int, tuple[Intervention, ...]]]:
    """Later origins of other arguments that follow from the rounds, and the reference's arguments there."""
    order = _order(case.traces[side]), _order(case.traces[1 - side])
    for index, origin in enumerate(case.localization.origins):
        if index in own or origin.kind != "arguments" or min(origin.calls) < 0 or origin.calls[side] < begin:
            continue
        ours, theirs = case.calls_at(origin.calls)
        given = [
            (which, None if isinstance(value, dict) else as_value(value))
            for which, value, _ in given_otherwise(ours, theirs)
        ]
        changes = tuple(Intervention("set-argument", str(theirs.site), (w, *v)) for w, v in given if v is not None)
        if not changes or len(changes) < len(given) or len(ours.arguments[0]) != len(theirs.arguments[0]):
            continue
        both = (ours, theirs) if side == 0 else (theirs, ours)
        if _counted_alike(case, side, times, order, both) or (
            _set_alike(case, (ours, theirs)) and _counts(case, 0, ours) and _counts(case, 1, theirs)
        ):
            yield index, changes


def _order(trace: Trace) -> list[int]:
    return [call.index for call in trace.calls if call.kind != "view"]


def _counted_alike(
    case: Case,
    side: int,
    times: tuple[list[int], list[int]],
    order: tuple[list[int], list[int]],
    calls: tuple[Call, Call],
) -> bool:
    """Whether one side's call has the arguments that the other's has after as many rounds as that side carried out."""
    call = calls[1]
    after = bisect.bisect_right(times[1], call.index)
    for number in range(max(0, after - 1), min(len(times[1]), after + 1)):
        offset = bisect.bisect_left(order[1], call.index) - bisect.bisect_left(order[1], times[1][number])
        place = bisect.bisect_left(order[0], times[0][number]) + offset
        if 0 <= place < len(order[0]):
            counted = case.traces[side].calls[order[0][place]]
            if counted.target == call.target and counted.arguments == call.arguments:
                return True
    return False


def _set_alike(case: Case, calls: tuple[Call, Call]) -> bool:
    """Whether both lie in steps of an optimizer that have the same settings, and so differ by its state alone."""
    looks = [_look(trace, call) for trace, call in zip(case.traces, calls, strict=True)]
    found = [(one.site.scope, one.arguments[1]["settings"], one.arguments[1]["parameters"]) for one in looks if one]
    return len(found) == 2 and found[0] == found[1]


def _counts(case: Case, side: int, call: Call) -> bool:
    """Whether it is given other numbers in a step beside its own: a constant is not made of a count of steps."""
    updates = case.shared(f"updates by site, {side}", lambda: _by_site(case.traces[side]))
    beside = (updates.get(replace(call.site, step=call.site.step + way)) for way in (-1, 1))
    return any(other is not None and other.arguments != call.arguments for other in beside)


def _by_site(trace: Trace) -> dict[Site, Call]:
    return {call.site: call for call in trace.calls if call.site.phase == "update"}


def _look(trace: Trace, call: Call) -> Call | None:
    """The optimizer's look at its state as the step begins in which a call lies; None: it lies in none."""
    at = call.index
    while at >= 0 and trace.calls[at].site.phase == "update":
        if trace.calls[at].is_update:
            return trace.calls[at]
        at -= 1
    return None
