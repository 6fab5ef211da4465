"""One replay that stops at every origin: its inputs and outputs are judged there and then forgotten."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Executor, Progress, for_framework, replayable
from whydiff.errors import ReplayError, WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.local_test.areas import Area, areas
from whydiff.explain.local_test.judge import LocalResult, judge_outputs, undecided
from whydiff.explain.local_test.large import is_large, judge_large
from whydiff.explain.local_test.operation import Array, Operation
from whydiff.explain.local_test.regions import judge_region, single_of
from whydiff.explain.local_test.replays import Region, operation
from whydiff.explain.local_test.ties import chooses, ties_broken_otherwise
from whydiff.explain.local_test.unmade import unmade
from whydiff.explain.sides import SIDES
from whydiff.locate.origins import walk_origins
from whydiff.locate.resynchronised import Watcher
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Call, Event, Lift, Origin, Payload

_FAILURES = (WhydiffError, RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, MemoryError)
_REGION_CALLS = 256
_ELEMENTS = 1 << 26
"""Values that are held in float64 at once, and of which one result is made: half a gigabyte each."""


@dataclass(frozen=True, eq=False)
class Examined:
    """What the local test had before it when it judged an origin.

    Attributes:
        number: position of the origin in the localization.
        calls: of the reference and of the candidate: the op, or the ops of the region (perhaps none).
        events: what they read, per side, and their results: (reads, result).
        operations: the same as float64 functions of ``reads``.
        outputs: both sides' results on agreeing inputs.
        result: the local test's decision.
        singles: per side, if it is one op: that op as an `Operation`, and the flat positions in the result of
            what it writes (None: it is the result).
        sampled: what is computed on the way is too much: operations and outputs are those at some results only, flat,
            and single ops those of some heads.
    """

    number: int
    calls: tuple[Sequence[Call], Sequence[Call]]
    reads: tuple[Sequence[Event], Sequence[Event]]
    results: tuple[Event, Event]
    operations: tuple[Operation, Operation]
    outputs: tuple[Payload, Payload]
    result: LocalResult
    singles: tuple[tuple[Operation, Array | None] | None, ...] = (None, None)
    sampled: bool = False


Visit = Callable[[Examined], None]


def examine(
    case: Case,
    progress: Progress | None = None,
    *,
    chosen: Sequence[int] | None = None,
    visit: Visit | None = None,
    wanted: Callable[[int], bool] = lambda number: True,
) -> dict[int, LocalResult]:
    """The local test at every origin of a case.

    Both programs are replayed once, in step and resynchronised; at an origin the op's inputs and both outputs
    are copied to the host, judged and dropped, so that memory is bounded by the largest origin. Results are
    remembered: without ``visit``, only origins that were never judged are replayed.

    Args:
        case: with its localization.
        progress: called with (stage, done, total).
        chosen: positions of the origins to test; all by default.
        visit: told of every judged origin while its values are at hand.
        wanted: asked when the walk comes to a chosen origin whether it is to be judged; one that is not has no result.

    Returns:
        Position in ``case.localization.origins`` → result; every chosen origin has one (``inconclusive`` with
        the reason where it cannot be tested).
    """
    numbers = range(len(case.localization.origins)) if chosen is None else chosen
    known: dict[int, LocalResult] = case.shared("local results", dict)
    missing = numbers if visit is not None else [number for number in numbers if number not in known]
    found = _examine(case, missing, progress, visit, wanted)
    known |= found
    return found if visit is not None else {number: known[number] for number in numbers if number in known}


def local_test(case: Case, origin: Origin) -> LocalResult:
    """The local test of one origin of a case; see `examine` for all of them at the price of one."""
    position = next(i for i, o in enumerate(case.localization.origins) if o is origin or o == origin)
    return examine(case, chosen=[position])[position]


def _examine(
    case: Case, chosen: Sequence[int], progress: Progress | None, visit: Visit | None, wanted: Callable[[int], bool]
) -> dict[int, LocalResult]:
    origins = case.localization.origins
    if not chosen:
        return {}
    for name, trace in (("reference", case.reference), ("candidate", case.candidate)):
        if why := replayable(trace):
            return {i: undecided(f"the op cannot be replayed: {why} ({name})") for i in chosen}
    plain = [for_framework(t.framework).executor(t) for t in case.traces]
    try:
        wide = Lift("float64")
        lifted = [for_framework(t.framework).executor(t, lift=wide) for t in case.traces]
    except WhydiffError as error:
        return {i: undecided(f"there is no float64 oracle: {error.what}") for i in chosen}
    step = _Watched(plain[0], plain[1], case)
    found = _Tester(step, (lifted[0], lifted[1]), {i: origins[i] for i in chosen}, case)
    found.visit, found.wanted = visit, wanted
    step.begun = case.beginning.enter(plain).calls
    with ExitStack() as stack:
        for executor in lifted:
            stack.enter_context(executor.running())
        walk_origins(step, progress, stage="local tests", watcher=found, measured=False)
    passed = {i: found.results.get(i, undecided("the replay did not pass this origin")) for i in chosen}
    return {i: result for i, result in passed.items() if i not in found.skipped}


class _Watched(Lockstep):
    """A lockstep that copies what a region's calls read before they are executed."""

    def __init__(self, reference: Executor, candidate: Executor, case: Case) -> None:
        super().__init__(reference, candidate, case.alignment)
        self.watched: dict[tuple[str, int], list[tuple[Area, int, list[Event]]]] = {}
        self.made: dict[tuple[str, int], list[tuple[Area, int]]] = {}

    def _run(self, name: str, executor: Executor, call: Call, *, recorded: bool) -> None:
        for area, side, events in self.watched.get((name, call.index), ()):
            try:
                area.reads[side] += [executor.payload(executor.read(event)) for event in events]
            except WhydiffError as error:  # a hole: this area cannot be judged, others can
                area.lost = error.what
        super()._run(name, executor, call, recorded=recorded)
        for area, side in self.made.get((name, call.index), ()):  # before another place puts another value there
            with suppress(WhydiffError):  # else it is read when it is judged
                area.made[side] = executor.payload(executor.read(area.events[side]))


class _Tester(Watcher):
    """Judges origins as the resynchronised walk comes by."""

    def __init__(
        self, step: _Watched, lifted: tuple[Executor, Executor], origins: Mapping[int, Origin], case: Case
    ) -> None:
        self.step, self.lifted, self.case = step, lifted, case
        self.visit: Visit | None = None
        self.told: list[Examined] = []
        self.results: dict[int, LocalResult] = {}
        self.wanted: Callable[[int], bool] = lambda number: True
        self.skipped: set[int] = set()
        self.count = len(origins)
        self._before: dict[tuple[int, int], tuple[list[Payload], list[Payload]] | None] = {}
        self.at: dict[tuple[int, int], list[tuple[int, Origin]]] = {}
        for number, origin in origins.items():
            self.at.setdefault(origin.calls, []).append((number, origin))
        self.areas: dict[tuple[int, int], list[Area]] = {}
        self._find_areas()

    # ------------------------------------------------------------------ regions, found before the walk

    def _find_areas(self) -> None:
        for area, at in areas(self.case, [number for found in self.at.values() for number, _ in found]):
            self._watch(area, *at)

    def _watch(self, area: Area, at_r: int, at_c: int) -> None:
        if max(map(len, area.calls)) > _REGION_CALLS:
            reason = f"its region has more than {_REGION_CALLS} ops: too many for one oracle"
            self.results[area.origin] = undecided(reason)
            return
        self.areas.setdefault((at_r, at_c), []).append(area)
        for side, name in enumerate(("reference", "candidate")):
            region = Region(area.calls[side], area.events[side], self.lifted[side])
            area.regions.append(region)
            for call, events in region.reads_by_call().items():
                self.step.watched.setdefault((name, call), []).append((area, side, events))
            if area.calls[side] and area.events[side].producer == area.calls[side][-1].index:
                self.step.made.setdefault((name, area.events[side].producer), []).append((area, side))

    # ------------------------------------------------------------------ the walk

    @property
    def done(self) -> bool:  # type: ignore[override]
        """Whether nothing is left to look at."""
        return len(self.results) + len(self.skipped) == self.count

    def entering(self, reference: Call, candidate: Call) -> None:
        """Regions are judged where their result is read."""
        for area in self.areas.pop((reference.index, candidate.index), ()):
            if self._asked(area.origin):
                self._guarded(area.origin, functools.partial(self._judge_area, area))

    def executing(self, reference: Call, candidate: Call) -> None:
        """Copies of what an origin's ops are about to read."""
        if reference.kind == "compute" and self._here(reference, candidate):
            self._before[reference.index, candidate.index] = self._reads(reference, candidate)

    def executed(self, reference: Call, candidate: Call, looks: Sequence[Look], alone: list[Any] | None) -> None:
        """An origin's ops are judged by what they read and wrote."""
        reads = self._before.pop((reference.index, candidate.index), None)
        for number, origin in self._here(reference, candidate):
            judge = functools.partial(self._judge_call, reference, candidate, (number, origin), reads, alone, looks)
            self._guarded(number, judge)

    def returned(self, reference: Call, candidate: Call) -> None:
        """What is returned as it was read has no op to test."""
        for number, origin in self.at.get((reference.index, candidate.index), ()):
            text = f"{', '.join(origin.leaves) or 'a value'} is returned as it is: no op to test"
            self.results.setdefault(number, undecided(text))

    def _here(self, reference: Call, candidate: Call) -> list[tuple[int, Origin]]:
        at = self.at.get((reference.index, candidate.index), ())
        return [(n, origin) for n, origin in at if n not in self.results and self._asked(n)]

    def _asked(self, number: int) -> bool:
        if number not in self.skipped and not self.wanted(number):
            self.skipped.add(number)
        return number not in self.skipped

    def _guarded(self, number: int, judge: Any) -> None:
        if number in self.results:
            return
        try:
            self.results[number] = judge()
        except _FAILURES as error:
            what = error.what if isinstance(error, WhydiffError) else f"{type(error).__name__}: {error}"
            self.results[number] = undecided(f"the oracle could not be computed: {what}".splitlines()[0])
        for examined in self.told:
            if self.visit is not None:
                self.visit(examined)
        self.told = []

    def _reads(self, call_r: Call, call_c: Call) -> tuple[list[Payload], list[Payload]] | None:
        """Copies of what both ops are about to read."""
        sides = []
        for executor, call in ((self.step.reference, call_r), (self.step.candidate, call_c)):
            if sum(event.spec.numel for event in call.reads) > _ELEMENTS:
                return None
            try:
                sides.append([executor.payload(executor.read(event)) for event in call.reads])
            except WhydiffError:
                return None
        return sides[0], sides[1]

    # ------------------------------------------------------------------ judging

    def _judge_call(
        self,
        call_r: Call,
        call_c: Call,
        which: tuple[int, Origin],
        reads: tuple[list[Payload], list[Payload]] | None,
        alone: list[Any] | None,
        looks: Sequence[Look],
    ) -> LocalResult:
        if reads is None:
            return undecided(f"its inputs are not there or have more than {_ELEMENTS} elements")
        slot, look = next(((i, look) for i, look in enumerate(looks) if look.agrees is False), (-1, None))
        if look is None:
            replayed = undecided("its outputs agree on the values that the replay gives it")
            if which[1].kind != "implementation" or None in self.case.runs:
                return replayed
            sides = zip(SIDES, (self.step.reference, self.step.candidate), (call_r, call_c), strict=True)
            other = next((name for name, executor, call in sides if executor.faithful(call) is False), "")
            return unmade(self.case, call_r, call_c, replace(replayed, unexplained=other))
        slots = _slot(call_r, look.reference), _slot(call_c, look.candidate)
        op_r = operation(call_r, reads[0], slots[0], self.lifted[0])
        op_c = operation(call_c, reads[1], slots[1], self.lifted[1])
        x_r = self.step.reference.payload(look.reference_value)
        x_c = self.step.candidate.payload(look.candidate_value)
        op_r, op_c = (
            replace(op, calls=1 + _unseen_before(executor.trace.calls, call))
            for op, executor, call in ((op_r, self.step.reference, call_r), (op_c, self.step.candidate, call_c))
        )
        number, origin = which
        if origin.kind == "implementation" and alone is not None and slot < len(alone):
            x_c = self.step.candidate.payload(alone[slot])
            op_c = operation(call_c, reads[0], slots[1], self.lifted[1])
        choice = self._tied(([call_r], [call_c]), (op_r, op_c), (x_r, x_c))
        result = choice or judge_outputs(op_r, x_r, x_c, op_c)
        if origin.kind == "implementation":
            result = unmade(self.case, call_r, call_c, result)
        self._tell(
            number,
            ([call_r], [call_c]),
            (call_r.reads, call_c.reads),
            (look.reference, look.candidate),
            (op_r, op_c),
            (x_r, x_c),
            result,
            ((op_r, None), (op_c, None)),
        )
        return result

    def _tied(
        self, calls: Sequence[Sequence[Call]], operations: Sequence[Operation], outputs: Sequence[Payload]
    ) -> LocalResult | None:
        """What is to be said if both sides choose, and only among equal values otherwise."""
        sides = zip((self.step.reference, self.step.candidate), calls, strict=True)
        if not all(chooses(executor.framework, inside) for executor, inside in sides):
            return None
        return ties_broken_otherwise([op.reads for op in operations], outputs)

    def _tell(self, *what: Any) -> None:
        self.told.append(Examined(*what))

    def _judge_area(self, area: Area) -> LocalResult:
        if area.lost:
            return undecided(f"its inputs are not there: {area.lost}")
        outputs, operations = [], []
        large = any(is_large(region, _ELEMENTS) for region in area.regions)
        for side, executor in enumerate((self.step.reference, self.step.candidate)):
            region, event = area.regions[side], area.events[side]
            outputs.append(area.made[side] or executor.payload(executor.read(event)))
            reads = area.reads[side] if area.calls[side] else [outputs[-1]]
            if sum(payload.bits.size for payload in reads) > _ELEMENTS:
                return undecided(f"its inputs have more than {_ELEMENTS} elements")
            if event.spec.numel > _ELEMENTS:
                return undecided(f"its result has more than {_ELEMENTS} elements")
            if not large:
                operations.append(region.operation(reads))
        if outputs[0].bits.shape != outputs[1].bits.shape:
            return undecided("the outputs have other shapes")
        if large:
            return self._judge_large(area, outputs)
        inputs = area.regions[0].inputs, area.regions[1].inputs
        singles = tuple(single_of(*pair) for pair in zip(area.regions, area.reads, strict=True))
        choice = self._tied(area.calls, operations, outputs)
        result = choice or judge_region(area.regions, operations, outputs, singles)
        self._tell(
            area.origin,
            area.calls,
            inputs,
            area.events,
            (operations[0], operations[1]),
            (outputs[0], outputs[1]),
            result,
            singles,
        )
        return result

    def _judge_large(self, area: Area, outputs: Sequence[Payload]) -> LocalResult:
        """A region whose values on the way cannot be held is judged at a sample of its results."""
        try:
            found = judge_large(area.regions, area.reads, outputs, _ELEMENTS)
        except ReplayError as error:
            text = (
                f"what it computes on the way has more than {_ELEMENTS} elements, and it cannot be carried out in part"
            )
            return undecided(f"{text}: {error.what} {error.where}".strip())
        inputs = area.regions[0].inputs, area.regions[1].inputs
        self._tell(
            area.origin,
            area.calls,
            inputs,
            area.events,
            found.operations,
            found.outputs,
            found.result,
            found.singles,
            True,
        )
        return found.result


def _unseen_before(calls: Sequence[Call], call: Call) -> int:
    """How many calls a program carried out together with one, whose results it never put into memory: they round too."""
    found: set[int] = set()
    waiting = [call]
    while waiting:
        at = waiting.pop()
        makers = {event.producer for event in at.reads if event.unseen and event.producer >= 0} - found
        found |= makers
        waiting += [calls[index] for index in makers]
    return len(found)


def _slot(call: Call, event: Event) -> int:
    return next(i for i, written in enumerate(call.writes) if written is event or written == event)
