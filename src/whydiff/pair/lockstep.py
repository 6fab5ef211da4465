"""Two replays in step: the walk that localizing, growth and experiments share.

Source of the method: resynchronising, ``docs/explanation/origins.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Executor, Progress, Value
from whydiff.errors import WhydiffError
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer
from whydiff.pair.operands import counting
from whydiff.pair.replay import Outputs, returns
from whydiff.pair.slices import Axis, SliceMap, options, settle, why_unmapped
from whydiff.records import Alignment, Call, Comparison, Event, Leaf, Pair, Payload, Slot, TensorSpec, Trace


def paired(reference: Call, candidate: Call, slot: str) -> list[tuple[Event, Event]]:
    """Events of two paired calls that correspond: what is returned by name, all others by position.

    Results that share no name correspond in order, if one side's have places instead (a tuple's), and all are as many
    and of the same shapes and dtypes.

    Reads whose old content does not matter (``out=``, ``copy_``) and further looks at storage that is compared
    elsewhere are left out; so is a tensor that is a number in the other call (`whydiff.pair.operands`). What one call has
    more of is left over (`paired_or_left`): what comes last, or between runs of
    which one begins at a later step (it collects fewer steps' results) what comes first.

    Args:
        reference, candidate: calls that the alignment paired.
        slot: ``reads`` or ``writes``.
    """
    return _paired(reference, candidate, *counting(reference, candidate, slot)[:2])


def _paired(reference: Call, candidate: Call, ours: list[Event], theirs: list[Event]) -> list[tuple[Event, Event]]:
    if reference.kind == "return":
        by_slot = {event.site.slot: event for event in theirs}
        if len(ours) == len(theirs) and not any(event.site.slot in by_slot for event in ours) and _alike(ours, theirs):
            return list(zip(ours, theirs, strict=True))  # other names for the same places
        return [(event, by_slot[event.site.slot]) for event in ours if event.site.slot in by_slot]
    both = min(len(ours), len(theirs)) if reference.site.step != candidate.site.step else 0
    return list(zip(ours[-both:], theirs[-both:], strict=False))


def _alike(ours: Sequence[Event], theirs: Sequence[Event]) -> bool:
    """Whether one side's results have places instead of names, and all are of the other's shapes and dtypes."""
    if not any(all(event.site.slot.startswith("[") for event in side) for side in (ours, theirs)):
        return False
    return all((a.spec.shape, a.spec.dtype) == (b.spec.shape, b.spec.dtype) for a, b in zip(ours, theirs, strict=True))


def numbered_alike(outputs: Outputs, reference: Trace, candidate: Trace, alignment: Alignment) -> dict[Slot, Payload]:
    """A candidate's outputs under the reference's numbers and names; returns without a counterpart are left out."""
    ours, theirs = returns(reference.calls), returns(candidate.calls)
    number: dict[int, int] = {}
    names: dict[Slot, str] = {}
    for pair in alignment.pairs:
        if pair.reference in ours:
            number[theirs[pair.candidate]] = ours[pair.reference]
            both = paired(reference.calls[pair.reference], candidate.calls[pair.candidate], "reads")
            names |= {Slot(theirs[pair.candidate], b.site.slot): a.site.slot for a, b in both}
    return {
        Slot(number[slot.number], names.get(slot, slot.name)): found
        for slot, found in outputs.items()
        if slot.number in number
    }


def matched(reference: Call, candidate: Call, slot: str) -> list[tuple[Event, Event]]:
    """`paired` events whose values a replay of either side has."""
    return [(a, b) for a, b in paired(reference, candidate, slot) if a.storage >= 0 and b.storage >= 0]


def paired_or_left(reference: Call, candidate: Call, slot: str) -> tuple[list[tuple[Event, Event]], int]:
    """`paired`, and how many events have no counterpart in the other call, neither a tensor nor the same number."""
    ours, theirs, other = counting(reference, candidate, slot)
    pairs = _paired(reference, candidate, ours, theirs)
    return pairs, len(ours) + len(theirs) + other - 2 * len(pairs)


@dataclass(frozen=True, slots=True)
class Look:
    """One paired read or write: both events and both values (None: could not be had, see ``why``).

    ``map``: the shapes differ by this slice map, and the larger side's value is its counterpart part.
    ``unmapped``: the shapes differ, and no slice map fits them.
    """

    reference: Event
    candidate: Event
    reference_value: Value
    candidate_value: Value
    agrees: bool | None
    why: str = ""
    map: SliceMap | None = None
    unmapped: bool = False


class Lockstep:
    """Executes the reference's and the candidate's calls in the order of an alignment.

    Args:
        reference, candidate: executors of the two traces; both are used up by one walk.
        alignment: from `whydiff.pair.align.align`.
        axes: what the runs have different sizes of (batch, length); tensors that differ by a slice map are
            compared on the counterpart.
    """

    def __init__(
        self, reference: Executor, candidate: Executor, alignment: Alignment, axes: tuple[Axis, ...] = ()
    ) -> None:
        self.reference, self.candidate, self.alignment = reference, candidate, alignment
        self.axes = axes
        self.begun = 0  # calls, the same on both sides, that both have behind them (`whydiff.pair.beginning`)
        self._numbers = returns(reference.trace.calls)
        self._partners = ({p.reference for p in alignment.pairs}, {p.candidate for p in alignment.pairs})
        self.sliced: list[tuple[str, SliceMap, str]] = []
        self.failed: dict[str, list[str]] = {}
        self.stopped: dict[str, str] = {}
        self.watch: Callable[[Executor, Call], None] | None = None
        self.unjudged: list[str] = []
        self.unfaithful: dict[str, list[str]] = {"reference": [], "candidate": []}
        self.executed = {"reference": 0, "candidate": 0}
        self._leaf_names = (_leaf_index(reference.trace.leaves), _leaf_index(candidate.trace.leaves))
        self._read = tuple(
            {event.storage for call in executor.trace.calls for event in call.reads if not event.overwritten}
            for executor in (reference, candidate)
        )
        self.unread, self.surplus = set[str](), dict[str, int]()
        self._equal_leaves: dict[tuple[Any, ...], bool] = {}
        self._equal_outputs: dict[tuple[int, int, int, int], TensorSpec | None] = {}

    def walk(self, progress: Progress | None = None, stage: str = "replay") -> Iterator[tuple[Call, Call]]:
        """Yield every pair just before it is executed; execute it when the consumer asks for the next."""
        calls_r, calls_c = self.reference.trace.calls, self.candidate.trace.calls
        total = len(calls_r) + len(calls_c)
        at_r = at_c = self.begun
        for call_r, call_c in zip(calls_r[: self.begun], calls_c[: self.begun], strict=True):
            self._part(() if self.candidate.testifies(call_c) else call_r.writes)
        with self.reference.running(), self.candidate.running():
            later = (pair for pair in self.alignment.pairs if pair.reference >= self.begun)
            for pair in (*later, Pair(len(calls_r), len(calls_c), "end")):
                self._run_alone("reference", self.reference, calls_r[at_r : pair.reference])
                self._run_alone("candidate", self.candidate, calls_c[at_c : pair.candidate])
                at_r, at_c = pair.reference + 1, pair.candidate + 1
                if pair.how == "end":
                    break
                reference, candidate = calls_r[pair.reference], calls_c[pair.candidate]
                yield reference, candidate
                self.reference.release(reference)
                self.candidate.release(candidate)
                if progress is not None and pair.reference % 64 == 0:
                    progress(stage, at_r + at_c, total)
        if progress is not None:
            progress(stage, total, total)

    def execute(self, reference: Call, candidate: Call, *, check: bool = False) -> None:
        """Execute a yielded pair on both sides; ``check`` compares outputs with recorded fingerprints."""
        self._run("reference", self.reference, reference, recorded=True)
        self._run("candidate", self.candidate, candidate, recorded=False)
        self._part(() if self.candidate.testifies(candidate) else reference.writes)
        if check:
            sides = (("reference", self.reference, reference), ("candidate", self.candidate, candidate))
            for name, executor, call in sides:
                if executor.faithful(call) is False:
                    self.unfaithful[name].append(str(call.site))

    def _part(self, events: Sequence[Event]) -> None:
        """Behind these the candidate is executed here (unless this is where it ran): so is the reference's region."""
        if self.candidate.trace.source != "live":
            for event in events:
                self.reference.part(event)

    def _run_alone(self, name: str, executor: Executor, calls: Sequence[Call]) -> None:
        for call in calls:
            self._run(name, executor, call, recorded=False)
            executor.release(call)

    def _run(self, name: str, executor: Executor, call: Call, *, recorded: bool) -> None:
        why = executor.execute(call, recorded=recorded)
        self.executed[name] += call.kind == "compute"
        if why:
            self.failed.setdefault(f"{name}: {why}", []).append(str(call.site))
            self.stopped.setdefault(name, str(call.site))
        if name == "candidate" and self.watch is not None:
            self.watch(executor, call)

    def looks(self, reference: Call, candidate: Call, slot: str) -> list[Look]:
        """Paired reads (``slot="reads"``) or writes of a pair, with whether their bits agree now.

        Events are paired as in `paired`; what is left over is counted in ``surplus``.
        """
        pairs, surplus = paired_or_left(reference, candidate, slot)
        if surplus:
            self.surplus[f"{reference.site} ({slot})"] = surplus
        if slot == "writes" and len(pairs) > 1:
            used = [(er, ec) for er, ec in pairs if er.storage in self._read[0] or ec.storage in self._read[1]]
            if used and len(used) < len(pairs):  # a kernel's by-products (seeds, statistics) that nothing reads
                self.unread.update(str(er.site) for er, _ in pairs if all(er is not kept for kept, _ in used))
                pairs = used
        return [self._look(er, ec, written=slot == "writes") for er, ec in pairs]

    def slot(self, call: Call, event: Event) -> Slot:
        """What one of the reference's returns gives back there, under its number."""
        return Slot(self._numbers[call.index], event.site.slot)

    def look(self, er: Event, ec: Event) -> Look:
        """One paired read, compared now."""
        return self._look(er, ec, written=False)

    def _look(self, er: Event, ec: Event, *, written: bool) -> Look:
        if er.uninitialised and ec.uninitialised:
            return Look(er, ec, None, None, True, er.skipped)
        if er.storage < 0 or ec.storage < 0:
            return Look(er, ec, None, None, None, er.skipped or ec.skipped)
        if not written and self._known_equal(er, ec):
            return Look(er, ec, None, None, True)
        try:
            value_r = self.reference.read(er)
            value_c = self.candidate.read(ec)
        except WhydiffError as error:
            return Look(er, ec, None, None, None, error.what)
        if written and self.alignment.ahead and er.spec.shape != ec.spec.shape:
            return Look(er, ec, None, None, None, "one run has more steps, and what is collected of each")
        if self.axes and er.spec.shape != ec.spec.shape:
            return self._counterpart(er, ec, value_r, value_c, written=written)
        agrees = self.agree(value_r, value_c)
        if er.producer == -1 and ec.producer == -1:
            self._equal_leaves[_leaf_key(er, ec)] = agrees
        return Look(er, ec, value_r, value_c, agrees)

    def _counterpart(self, er: Event, ec: Event, value_r: Value, value_c: Value, *, written: bool) -> Look:
        axes = self.axes
        if not written and self._made_up(er, ec):  # numbers of nothing in particular: they may begin at 0 on each side
            axes = tuple(replace(axis, starts=tuple(dict.fromkeys((*axis.starts, 0)))) for axis in axes)
        maps = options(er.spec.shape, ec.spec.shape, axes, is_integer(er.spec.dtype))
        if not maps:
            why = f"no slice map: {why_unmapped(er.spec.shape, ec.spec.shape)}"
            return Look(er, ec, value_r, value_c, None, why, unmapped=True)
        whole = maps[0].whole
        small, large = (value_r, value_c) if whole == "candidate" else (value_c, value_r)
        chosen = settle(maps, small, large, self._alike, self._distance)
        if written:
            self.sliced.append((str(er.site), chosen.map, chosen.how))
        part = chosen.map.part(large)
        values = (value_r, part) if whole == "candidate" else (part, value_c)
        return Look(er, ec, *values, chosen.equal, map=chosen.map)

    def _made_up(self, er: Event, ec: Event) -> bool:
        """Whether both sides read whole numbers that a call made from no tensor (a range, a fill)."""
        makers = [
            trace.calls[event.producer] if event.producer >= 0 else None
            for trace, event in ((self.reference.trace, er), (self.candidate.trace, ec))
        ]
        return is_integer(er.spec.dtype) and all(maker is not None and not maker.reads for maker in makers)

    def _alike(self, one: Value, other: Value) -> bool:
        if self.reference.framework == self.candidate.framework:
            return self.reference.same(one, other)
        return compare_payloads(self._payload(one), self._payload(other)).status == "agrees"

    def _distance(self, one: Value, other: Value) -> float:
        if self.reference.framework == self.candidate.framework:
            return self.reference.apart(one, other)
        return compare_payloads(self._payload(one), self._payload(other)).value("mean_abs") or 0.0

    def _payload(self, value: Value) -> Any:
        try:
            return self.reference.payload(value)
        except (AttributeError, TypeError):  # the other framework's
            return self.candidate.payload(value)

    def leaf_differs(self, reference: Leaf, candidate: Leaf) -> bool:
        """Whether two leaves differ in dtype, shape or bits, beyond what a slice map explains."""
        if reference.spec.dtype != candidate.spec.dtype:
            return True
        if reference.spec.shape == candidate.spec.shape:
            return reference.fingerprint != candidate.fingerprint
        maps = options(reference.spec.shape, candidate.spec.shape, self.axes) if self.axes else ()
        if not maps:
            return True
        try:
            values = self.reference.leaf_value(reference), self.candidate.leaf_value(candidate)
        except WhydiffError:
            return True
        small, large = values if maps[0].whole == "candidate" else values[::-1]
        return not settle(maps, small, large, self._alike, lambda one, other: 0.0).equal

    def agree(self, reference: Value, candidate: Value) -> bool:
        """Whether no bit differs, also across frameworks."""
        return self.reference.same(reference, self.bring(candidate))

    def bring(self, candidate: Value) -> Value:
        """A candidate's value in the reference's framework."""
        if self.reference.framework == self.candidate.framework:
            return candidate
        return self.reference.adopt_foreign(self.candidate.payload(candidate))

    def take(self, reference: Value) -> Value:
        """A reference's value in the candidate's framework."""
        if self.reference.framework == self.candidate.framework:
            return reference
        return self.candidate.adopt_foreign(self.reference.payload(reference))

    def give(self, executor: Executor, call: Call | None, event: Event, value: Value) -> bool:
        """Give a call another value to read (None: all that read it); False if it cannot take it.

        What it reads may be another value's counterpart, and is then what its other readers go on with: only this call
        gets the given one. Else the value itself is exchanged.
        """
        return (executor.stand_in if self._alone(executor, call, event) else executor.overwrite)(event, value)

    def _alone(self, executor: Executor, call: Call | None, event: Event) -> bool:
        if call is None or any(call.reads[i] is event for i in call.mutates):
            return False
        return event.producer < 0 or event.producer in self._partners[executor is self.candidate]

    def resynchronise(self, look: Look, reader: Call | None = None) -> bool:
        """Give the candidate the reference's value; False if it cannot take it.

        Args:
            look: at both values.
            reader: the candidate's call that reads it; None: it is what a call wrote.
        """
        if look.reference_value is None or look.candidate_value is None:
            return False
        value = self.take(look.reference_value)
        inside = look.map is not None and look.map.whole == "candidate"
        if look.map is not None and inside:
            value = look.map.put(self.candidate.read(look.candidate), value, self.candidate.put)
        if not self.give(self.candidate, reader, look.candidate, value):
            return False
        if not self._alone(self.candidate, reader, look.candidate):
            self._part([look.reference])
        now = self.candidate.read(look.candidate)
        return self.agree(look.reference_value, look.map.part(now) if look.map is not None and inside else now)

    def substitute(self, reference: Event, candidate: Event, reader: Call | None = None) -> bool:
        """Give the candidate the reference's value now, on its counterpart; False if it cannot take it."""
        return self.resynchronise(self._look(reference, candidate, written=True), reader)

    def note_equal(self, look: Look) -> None:
        """Remember that a written pair now agrees, so that its readers need not compare it again.

        What is written in place may be a part: then only readers of just that part need not.
        """
        er, ec = look.reference, look.candidate
        part = _in_place(self.reference.trace, er) or _in_place(self.candidate.trace, ec)
        if er.spec == ec.spec if part else er.spec.shape == ec.spec.shape:
            self._equal_outputs[er.storage, er.producer, ec.storage, ec.producer] = er.spec if part else None

    def _known_equal(self, er: Event, ec: Event) -> bool:
        if er.spec != ec.spec:
            return False
        if er.producer == -1 and ec.producer == -1:
            return self._equal_leaves.get(_leaf_key(er, ec), False)
        key = er.storage, er.producer, ec.storage, ec.producer
        return key in self._equal_outputs and self._equal_outputs[key] in (None, er.spec)

    def leaves_of(self, side: int, event: Event) -> list[Leaf]:
        """Leaves that share the storage an event looks at (side 0: reference, 1: candidate)."""
        return self._leaf_names[side].get(event.storage, [])


def _in_place(trace: Trace, event: Event) -> bool:
    """Whether what a call wrote was there before."""
    call = trace.calls[event.producer] if event.producer >= 0 else None
    return call is not None and event.storage in {call.reads[position].storage for position in call.mutates}


def _leaf_index(leaves: Any) -> dict[int, list[Leaf]]:
    index: dict[int, list[Leaf]] = {}
    for leaf in leaves:
        if leaf.storage >= 0:
            index.setdefault(leaf.storage, []).append(leaf)
    return index


def _leaf_key(er: Event, ec: Event) -> tuple[Any, ...]:
    return (er.storage, ec.storage, er.spec, ec.spec)


def comparison_of(step: Lockstep, look: Look) -> Comparison:
    """Both values of a look, measured; what was known to agree without reading it has no measurements."""
    if look.reference_value is None or look.candidate_value is None:
        return Comparison("agrees" if look.agrees else "not_compared", look.why)
    return step.reference.compare(look.reference_value, look.candidate_value, of=step.candidate)


def payloads_of(step: Lockstep, look: Look) -> tuple[Payload, Payload]:
    """Host copies of both values of a look."""
    value_r, value_c = look.reference_value, look.candidate_value
    if value_r is None or value_c is None:
        value_r, value_c = step.reference.read(look.reference), step.candidate.read(look.candidate)
    return step.reference.payload(value_r), step.candidate.payload(value_c)
