"""One side of a pair carried out again with changes: by the user's live program, or by a replay of the recorded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Exchanged, Executor, Progress, executor_of, for_framework, replayable
from whydiff.errors import ReplayError
from whydiff.explain.activations import COMPUTE, SCALE, computing, multiplying
from whydiff.explain.arguments import differing_arguments, fits, one_overload
from whydiff.explain.beside import REPEAT, repeated
from whydiff.explain.draws import DRAW_AS, NUMBERS_OF, Borrowing, drawn, live
from whydiff.explain.interventions import (
    AS_WRITTEN,
    CHANGES,
    EDITS,
    EXCHANGES,
    KEEP_WIDE,
    changes,
    edits,
    outputs_with_replaced,
)
from whydiff.explain.moving import LIFTED, liftable, moving
from whydiff.explain.restoring import HELD, RESTORED, restored
from whydiff.explain.sides import Sides
from whydiff.explain.sites import call_at, read_at, sites_of, written_at
from whydiff.numbers.casts import rounded
from whydiff.pair.beginning import Entered
from whydiff.pair.lockstep import paired
from whydiff.pair.replay import Outputs, Replayed, Watch, replay, returns
from whydiff.records import Alignment, Call, Count, Event, Intervention, Lift, Payload, Slot, Trace

COUNT, ORDER, UNTIE = "count-on", "carry-out-as", "untie"
Watched = tuple[Progress | None, str] | None
"""Who is told of a replay's progress, and under which name."""


@dataclass(frozen=True, slots=True)
class Lifted:
    """What a recorded program gives at another precision.

    Attributes:
        outputs: by `Slot`.
        failed: calls that could not be executed so, and why.
        counts: what could not be lifted, and discrete choices that flip.
    """

    outputs: Outputs
    failed: tuple[tuple[Call, str], ...] = ()
    counts: tuple[Count, ...] = ()


class Changed:
    """The candidate of two sides, carried out again under interventions.

    Args:
        sides: the other side gives tensors, ops and arguments.
    """

    def __init__(self, sides: Sides) -> None:
        self.sides = sides
        self._lifted: dict[Any, Lifted] = {}
        self._supported: dict[Any, bool] = {}

    def reruns(self, interventions: Sequence[Intervention]) -> bool:
        """Whether the live program can be run again under them."""
        return self.sides.runs[1] is not None and all(self._supports(item) for item in interventions)

    def _supports(self, item: Intervention) -> bool:
        run, key = self.sides.runs[1], key_of((item,))
        if key not in self._supported:
            self._supported[key] = run is not None and run.supports(live(self.sides, item))
        return self._supported[key]

    def replays(self, interventions: Sequence[Intervention]) -> bool:
        """Whether a replay can do it: a scalar only where it shows as a differing argument, a tensor only if it fits."""
        return all(self._replays(item) for item in interventions)

    def _replays(self, item: Intervention) -> bool:
        if item.name in CHANGES:
            return for_framework(self.sides.candidate.framework).changes_calls
        if item.name in (KEEP_WIDE, AS_WRITTEN, COMPUTE, SCALE):
            return not replayable(self.sides.candidate)
        if item.name in EXCHANGES or item.name in (DRAW_AS, NUMBERS_OF, ORDER, UNTIE):
            return not (replayable(self.sides.reference) or replayable(self.sides.candidate))
        if item.name in RESTORED:
            return self._fits(item)
        return item.name in (*EDITS, REPEAT, COUNT, HELD) or bool(self._carried(item))

    def _fits(self, item: Intervention) -> bool:
        """Whether the reference's tensor has the shape of the one whose place it takes: recorded calls work on no other."""
        ours = next((leaf for leaf in self.sides.reference.leaves if leaf.name == (item.value or item.target)), None)
        theirs = next((leaf for leaf in self.sides.candidate.leaves if leaf.name == item.target), None)
        return ours is None or theirs is None or ours.spec.shape == theirs.spec.shape

    def rerun(self, interventions: Sequence[Intervention] = ()) -> Outputs:
        """What the live program returns under interventions, unobserved.

        Raises:
            whydiff.errors.TargetError: it raised.
        """
        run = self.sides.runs[1]
        if run is None:
            return {}
        executor = executor_of(self.sides.candidate)
        found = run.plain([live(self.sides, item) for item in interventions], executor_of(self.sides.reference))
        return {Slot(0, path): executor.payload(value) for path, value in found}

    def replayed(self, interventions: Sequence[Intervention] = ()) -> tuple[Outputs, str]:
        """What the recorded program returns under interventions, and its first call that was not executed.

        Raises:
            whydiff.errors.ReplayError: an intervention cannot be carried out.
        """
        found = self._replayed(interventions, None)[0]
        return found.outputs, found.stopped or next((str(call.site) for call, _ in found.failed), "")

    def lifted(self, lift: Lift, interventions: Sequence[Intervention] = (), progress: Watched = None) -> Lifted:
        """What it returns at another precision; remembered.

        Raises:
            whydiff.errors.ReplayError: an intervention cannot be carried out, or the adapter cannot lift.
        """
        key = lift, key_of(interventions)
        if key not in self._lifted:
            found, executor = self._replayed(interventions, lift, progress)
            self._lifted[key] = Lifted(found.outputs, found.failed, tuple(executor.counts()))
        return self._lifted[key]

    def _replayed(
        self, interventions: Sequence[Intervention], lift: Lift | None, progress: Watched = None
    ) -> tuple[Replayed, Executor]:
        sides = self.sides
        wide = lift is None and any(item.name == KEEP_WIDE for item in interventions)
        executor = self.executor(interventions, Lift("float32") if wide else lift)
        moved = moving(sides.candidate, interventions) if lift is not None and liftable(interventions) else None
        if moved is not None:
            moved.begin(executor)
        also = moved.watch if moved is not None else None
        if wide:
            found = replay(executor)
            return Replayed(_as_returned(sides.candidate, found.outputs), found.failed), executor
        if any(item.name in EXCHANGES for item in interventions):
            follower = self._follower(executor) if lift is None else executor_of(sides.reference, lift=lift)
            watch = _both(self._writing(interventions), also)
            alike, axes = sides.alignment, sides.axes
            outputs, stopped = outputs_with_replaced(follower, executor, alike, interventions, axes, watch)
            found = Replayed(outputs, stopped=stopped)
        else:
            on, stage = progress or (None, "replay")
            watch = _both(self.watching(interventions), also)
            entered = sides.beginning.enter([executor]) if sides.beginning is not None and watch is None else Entered()
            found = replay(executor, watch=watch, begun=entered.calls, progress=on, stage=stage)
            found = replace(found, outputs={**entered.outputs, **found.outputs})
        return found, executor

    def watching(self, interventions: Sequence[Intervention]) -> Watch | None:
        """Who carries out, as calls are executed, what `executor` cannot know before; None: there is nothing of it."""
        return _both(self._keeping(interventions), self._writing(interventions))

    def _writing(self, interventions: Sequence[Intervention]) -> Watch | None:
        trace = self.sides.candidate
        return _both(computing(trace, interventions), multiplying(trace, interventions))

    def _keeping(self, interventions: Sequence[Intervention]) -> Watch | None:
        """Who keeps what calls write for the reads that are to have it as it was then; None: nobody."""
        chosen = [item for item in interventions if item.name == AS_WRITTEN]
        if not chosen:
            return None
        by_site = sites_of(self.sides.candidate)
        wanted: dict[int, list[tuple[Event, Event]]] = {}
        for item in chosen:
            call, position = read_at(by_site, item.target)
            written = written_at(by_site, item.value)
            wanted.setdefault(written.producer, []).append((written, call.reads[position]))

        def watch(executor: Executor, call: Call) -> None:
            for written, read in wanted.get(call.index, ()):
                executor.stand_in(read, executor.copy(executor.read(written)))

        return watch

    def _follower(self, candidate: Executor) -> Executor:
        """A replay of the reference with the candidate's leaves, for its ops to work on."""
        state = {
            ours.name: candidate.leaf_value(theirs)
            for ours, theirs in self.sides.differing_leaves()
            if ours.spec.shape == theirs.spec.shape and ours.spec.dtype == theirs.spec.dtype
        }
        return executor_of(self.sides.reference, restore=state)

    def executor(self, interventions: Sequence[Intervention], lift: Lift | None = None) -> Executor:
        """A replay of the candidate under interventions other than replaced ops."""
        sides = self.sides
        donor = executor_of(sides.reference)
        restore = restored(sides, interventions)
        restore |= {i.target: repeated(sides.candidate, i) for i in interventions if i.name == REPEAT}
        restore |= {i.target: counted(sides.candidate, i) for i in interventions if i.name == COUNT}
        carried = {k: call for item in interventions for k, call in self._carried(item).items()}
        draws = drawn(sides, interventions)
        source, moved = ordered(sides.reference, sides.candidate, sides.alignment, interventions)
        exchanged = moved | carried | edits(sides.candidate, interventions) | draws.exchanged
        exactly = lift is not None and liftable(interventions)  # then whoever watches carries them out
        changed = changes(sides.candidate, [i for i in interventions if not (exactly and i.name in LIFTED)])
        trace: Any = Borrowing(source, draws.borrowed) if draws.borrowed else source
        executor = for_framework(sides.candidate.framework).executor(
            trace, restore=restore, lift=None if changed else lift, changes=changed, exchanged=exchanged
        )
        for call, value in draws.given:
            executor.give(call, value)
        for event, value in (*draws.read, *untied(donor, sides.candidate, sides.alignment, interventions)):
            executor.stand_in(event, value)
        return executor

    def _carried(self, item: Intervention) -> Mapping[int, Call]:
        """Candidate calls inside the scalar's module whose arguments differ by it, with the reference's arguments."""
        if item.name != "set-scalar":
            return {}
        reference, candidate = self.sides.reference, self.sides.candidate
        path = item.target.rpartition(".")[0]
        before = candidate.scalars.get(item.target)
        found = {}
        for pair in self.sides.alignment.pairs:
            ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
            inside = not path or theirs.site.scope == path or theirs.site.scope.startswith(path + ".")
            if not inside or not one_overload(ours, theirs) or ours.arguments == theirs.arguments:
                continue
            differing = list(differing_arguments(ours.arguments, theirs.arguments))
            if differing and all(fits(change, (item.value, before)) for change in differing):
                found[theirs.index] = replace(theirs, arguments=ours.arguments)
        return found


def _both(one: Watch | None, other: Watch | None) -> Watch | None:
    if one is None or other is None:
        return one or other

    def watch(executor: Executor, call: Call) -> None:
        one(executor, call)
        other(executor, call)

    return watch


def _as_returned(trace: Trace, outputs: Outputs) -> dict[Slot, Payload]:
    """Outputs rounded to the dtypes in which a recorded program returned them."""
    number = returns(trace.calls)
    dtypes = {
        Slot(number[call.index], event.site.slot): event.spec.dtype
        for call in trace.calls
        if call.kind == "return"
        for event in call.reads
    }
    return {slot: rounded(payload, dtypes.get(slot, payload.dtype)) for slot, payload in outputs.items()}


def key_of(interventions: Sequence[Intervention]) -> tuple[tuple[str, str, str], ...]:
    """What makes two sets of interventions the same."""
    return tuple(sorted({(item.name, item.target, repr(item.value)) for item in interventions}))


def counted(trace: Trace, item: Intervention) -> Any:
    """A leaf's value plus the intervention's: whole numbers (where a token stands beside a cache) are counted on."""
    executor = executor_of(trace)
    leaf = next(leaf for leaf in trace.leaves if leaf.name == item.target)
    payload = executor.payload(executor.leaf_value(leaf))
    return executor.adopt_foreign(Payload(payload.bits + payload.bits.dtype.type(item.value), payload.dtype))


def ordered(
    reference: Trace, candidate: Trace, alignment: Alignment, interventions: Sequence[Intervention]
) -> tuple[Any, dict[int, Call]]:
    """The candidate in the order of the reference, and which of its calls see other memory so: those that are moved.

    Only what writes in place is moved so: every read looks at memory as it is when it is carried out, so nothing else has
    to change.

    Args:
        reference, candidate, alignment: the runs.
        interventions: ``carry-out-as`` | call | call of the other side | it is carried out where that one is; others are
            passed over.

    Raises:
        ReplayError: there is no such call.
    """
    chosen = [item for item in interventions if item.name == ORDER]
    if not chosen:
        return candidate, {}
    sites = sites_of(reference), sites_of(candidate)
    moved = {call_at(sites[1], item.target).index: call_at(sites[0], item.value).index for item in chosen}
    place = {pair.candidate: pair.reference for pair in alignment.pairs} | moved
    keys, last = list[tuple[int, int]](), -1
    for call in candidate.calls:
        last = place.get(call.index, last)
        keys.append((last, call.index))
    calls = [call for _, call in sorted(zip(keys, candidate.calls, strict=True), key=lambda pair: pair[0])]
    return Exchanged(candidate, calls), {index: candidate.calls[index] for index in moved}


def untied(
    reference: Executor, candidate: Trace, alignment: Alignment, interventions: Sequence[Intervention]
) -> Iterator[tuple[Event, Any]]:
    """Reads of the candidate, and what they read instead.

    Of one tensor under several names, of which one name holds another value, only what is read under that name changes.
    Which reads go by the name is told by the other side, where it is a tensor of its own.

    Args:
        reference: a replay of the other side.
        candidate, alignment: of the pair.
        interventions: ``untie`` | name of a tensor | the other side's name | what the counterparts of its readers read
            there is read instead; others are passed over.

    Raises:
        ReplayError: nothing on the other side reads that tensor.
    """
    names = {item.value or item.target: item.target for item in interventions if item.name == UNTIE}
    own = {leaf.storage: leaf.name for leaf in reference.trace.leaves if leaf.name in names and leaf.storage >= 0}
    found: set[str] = set()
    for pair in alignment.pairs if names else ():
        calls = reference.trace.calls[pair.reference], candidate.calls[pair.candidate]
        for ours, theirs in paired(*calls, "reads"):
            if ours.producer == -1 and ours.storage in own and theirs.producer == -1:
                found.add(own[ours.storage])
                with reference.running():
                    yield theirs, reference.copy(reference.read(ours))
    if names.keys() - found:
        raise ReplayError("Nothing reads this tensor under a name of its own.", where=min(names.keys() - found))
