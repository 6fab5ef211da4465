"""What both runs gave back, compared place by place: the anchor that `whydiff.judge.anchor` has the rules about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.locate.rows import Rows, compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.metrics import as_reals, is_integer, values
from whydiff.pair.lockstep import paired
from whydiff.pair.replay import returns
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Alignment, Comparison, Count, Event, Fingerprint, Output, Payload, Slot, Trace

Found = Literal[
    "equal",
    "values",
    "nan_bits",
    "dtype",
    "shape",
    "kind",
    "text",
    "lone",
    "unreadable",
    "undecided",
    "left_out",
    "nothing",
]
_COUNTED: tuple[Found, ...] = ("equal", "values", "nan_bits", "dtype", "shape", "kind", "text")
_NOTHING = type(None).__name__
_WRITTEN = "neither side returned anything: the values that each computed last stand for it"
_BESIDE = "what differs was made after the modules returned, and replays are compared by what modules return"


@dataclass(frozen=True, slots=True)
class Compared:
    """One output of both runs.

    Attributes:
        slot: in the reference's numbering of returns.
        found: ``equal`` (no bit differs), ``values``, ``nan_bits`` (bits of NaN alone), ``dtype`` (equal values),
            ``shape``, ``kind`` (a number against a text), ``text``, ``lone`` (only one run has it), ``unreadable``,
            ``undecided`` (fingerprints of different dtypes), ``left_out`` (holds no numbers, on both sides), ``nothing``
            (None on both sides: agreement about nothing).
        comparison: for the report.
        only: the side that alone has it.
        numbers: both values, cut to what corresponds, where both are held.
        padding: how many rows were found to be padding, are not compared, and differ.
    """

    slot: Slot
    found: Found
    comparison: Comparison
    only: Literal["", "reference", "candidate"] = ""
    numbers: tuple[Payload, Payload] | None = None
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Anchor:
    """Every output of both runs.

    Attributes:
        outputs: in the reference's order, then what only the candidate has.
        substitute: neither run returned anything; these are the values that were written last.
        beside: the modules of two scripts returned the same; what differs was made of it afterwards.
    """

    outputs: tuple[Compared, ...] = ()
    substitute: bool = False
    beside: bool = False

    def having(self, *found: Found) -> tuple[Compared, ...]:
        """Outputs of which one of these was found."""
        return tuple(one for one in self.outputs if one.found in found)

    @property
    def compared(self) -> tuple[Compared, ...]:
        """Outputs whose values were compared."""
        return self.having(*_COUNTED)

    @property
    def agree(self) -> bool:
        """Whether at least one output was compared and every one that was is bit-equal."""
        return bool(self.compared) and all(one.found == "equal" for one in self.compared)

    @property
    def equal(self) -> bool:
        """Whether every output was compared and is bit-equal."""
        return self.agree and not self.having("lone", "unreadable", "undecided")

    def counts(self) -> tuple[Count, ...]:
        """Outputs that were not compared, by reason."""
        reasons: dict[str, list[str]] = {}
        for one in self.having("lone", "unreadable", "undecided", "left_out"):
            reasons.setdefault(one.comparison.reason, []).append(str(one.slot))
        counts = [
            Count(what="outputs", reason=why, count=len(slots), examples=tuple(slots[:3]))
            for why, slots in reasons.items()
        ]
        if self.substitute:
            counts.append(Count("returned values", _WRITTEN, 1, code="nothing returned"))
        if self.beside:
            counts.append(Count("experiments", _BESIDE, 1, code="beside modules"))
        return tuple(counts)

    def comparisons(self) -> tuple[tuple[str, Comparison], ...]:
        """What the report shows of each output."""
        return tuple(
            (str(one.slot), one.comparison) for one in self.outputs if one.found not in ("left_out", "nothing")
        )


def anchor(
    reference: Trace,
    candidate: Trace,
    alignment: Alignment,
    axes: tuple[Axis, ...] = (),
    rows: Mapping[Slot, Rows] | None = None,
) -> Anchor:
    """Compare what two runs gave back.

    Args:
        reference, candidate: with their `outputs`; older traces are read from their calls of kind ``return``.
        alignment: pairs the returns.
        axes: what the runs have different sizes of: a larger output is compared on its counterpart.
        rows: by output, which of its rows are compared.
    """
    ours, theirs = recorded_outputs(reference), recorded_outputs(candidate)
    if all(output.type == _NOTHING for output in (*ours, *theirs)):
        return Anchor(tuple(_ends(reference, candidate, alignment)), substitute=True)
    numbers = _numbers(reference, candidate, alignment)
    unknown = len(returns(reference.calls))  # a return that is paired with none comes after all of the reference's
    renumbered = [
        replace(x, slot=Slot(numbers.get(x.slot.number, unknown + x.slot.number), x.slot.name)) for x in theirs
    ]
    found = between(ours, renumbered, axes, rows)
    beside = _beside_modules(reference, candidate, alignment) if found.agree else ()
    return replace(found, outputs=(*found.outputs, *beside), beside=bool(beside))


def between(
    reference: Sequence[Output],
    candidate: Sequence[Output],
    axes: tuple[Axis, ...] = (),
    rows: Mapping[Slot, Rows] | None = None,
) -> Anchor:
    """Compare outputs whose returns are numbered alike; a named tuple's fields also with a tuple's places."""
    named = {output.slot: output for output in candidate}
    known = {output.slot for output in reference}
    placed = {_place(output): output.slot for output in candidate if output.slot not in known}
    found = []
    for x in reference:
        other = x.slot if x.slot in named else placed.get(_place(x), x.slot)
        found.append(_compared(x.slot, x, named.pop(other, None), axes, rows or {}))
    found += [_compared(slot, None, output, axes, rows or {}) for slot, output in named.items()]
    return Anchor(tuple(found))


def _place(output: Output) -> tuple[int, str]:
    return output.slot.number, output.places or output.slot.name


def recorded_outputs(trace: Trace) -> tuple[Output, ...]:
    """What a run gave back; of a trace that does not record it, what its calls of kind ``return`` read."""
    if trace.outputs is not None:
        return tuple(trace.outputs)
    number = returns(trace.calls)
    return tuple(
        _of_event(Slot(number[call.index], event.site.slot), event, trace)
        for call in trace.calls
        if call.kind == "return"
        for event in call.reads
    )


def _of_event(slot: Slot, event: Event, trace: Trace) -> Output:
    payload = trace.payload(event.payload) if event.payload else None
    content = event.fingerprint if event.fingerprint and event.fingerprint.covers == "content" else None
    if payload is None and content is None:
        return Output(slot, "unreadable", "Tensor", text=event.skipped or "no fingerprint of its elements")
    return Output(slot, "numbers", "Tensor", payload=payload, spec=event.spec, fingerprint=content)


def _numbers(reference: Trace, candidate: Trace, alignment: Alignment) -> dict[int, int]:
    """Number of a candidate's return → number of the reference's return that it is paired with."""
    ours, theirs = returns(reference.calls), returns(candidate.calls)
    if len(ours) <= 1 and len(theirs) <= 1:
        return {0: 0}
    return {theirs[p.candidate]: ours[p.reference] for p in alignment.pairs if p.reference in ours}


def _ends(reference: Trace, candidate: Trace, alignment: Alignment) -> list[Compared]:
    """Values that neither run reads after it wrote them, by the calls that are paired."""
    last = [_never_read(trace) for trace in (reference, candidate)]
    found, done = [], [set[int](), set[int]()]
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        for a, b in paired(ours, theirs, "writes"):
            if a.uninitialised and b.uninitialised:
                continue
            if a.storage in last[0].get(ours.index, ()) and b.storage in last[1].get(theirs.index, ()):
                slot = Slot(0, str(a.site))
                outputs = _of_event(slot, a, reference), _of_event(slot, b, candidate)
                found.append(_compared(slot, *outputs, (), {}))
                done[0].add(ours.index)
                done[1].add(theirs.index)
    for number, (trace, side) in enumerate(((reference, "reference"), (candidate, "candidate"))):
        for index in last[number]:
            if index not in done[number] and trace.calls[index].kind == "compute":
                found.append(_lone(Slot(0, str(trace.calls[index].site)), side))  # type: ignore[arg-type]
    return found


def _never_read(trace: Trace) -> dict[int, set[int]]:
    """Index of a call → storages that it writes and that go no further: nothing reads them, or Python does (``item``)."""
    roles = for_framework(trace.framework).roles
    open_now: dict[int, int] = {}
    found: dict[int, set[int]] = {}
    for call in trace.calls:
        for event in call.reads:
            if call.kind == "compute" and not call.writes:
                found.setdefault(event.producer, set()).add(event.storage)
            elif call.kind != "view" and Role.SHAPE_ONLY not in roles(call.site.op):
                open_now.pop(event.storage, None)
        for event in call.writes:
            if event.storage >= 0 and not (event.is_look or event.uninitialised):
                open_now[event.storage] = call.index
    for storage, index in open_now.items():
        found.setdefault(index, set()).add(storage)
    return found


def _beside_modules(reference: Trace, candidate: Trace, alignment: Alignment) -> tuple[Compared, ...]:
    """What two scripts, whose modules returned the same, came to afterwards and that differs.

    That is what Python was given (``item``), the state as it was left, and what was made outside of modules and never read.
    """
    first, last = min(returns(reference.calls), default=0), len(reference.calls) - 1
    if first >= last:  # a function: it ends with what it returns
        return ()
    state = {leaf.storage for leaf in reference.leaves if leaf.is_state}
    mine = {str(e.site) for call in reference.calls[first:] for e in call.writes if not call.site.scope}
    theirs = {str(event.site): event for call in reference.calls for event in call.writes}
    apart: tuple[Found, ...] = ("values", "nan_bits", "dtype", "shape", "kind")
    found = [
        *_given_to_python(reference, candidate, alignment, first),
        *_left_in_state(reference, candidate, alignment),
        *(
            one
            for one in (_ends(reference, candidate, alignment) if mine else ())
            if one.slot.name in mine and theirs[one.slot.name].storage not in state
        ),
    ]
    return tuple(one for one in found if one.found in apart)


def _given_to_python(reference: Trace, candidate: Trace, alignment: Alignment, first: int) -> Iterator[Compared]:
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        if ours.kind == "compute" and ours.index > first and not ours.writes and not ours.site.scope:
            for a, b in paired(ours, theirs, "reads"):
                yield _of_events((a, b), str(ours.site), (reference, candidate))


def _left_in_state(reference: Trace, candidate: Trace, alignment: Alignment) -> Iterator[Compared]:
    """The state by its names; of modules that were made meanwhile, what ops read and an optimizer wrote last."""
    mine, others = _last_written(reference), _last_written(candidate)
    leaves = {alignment.rename(leaf.name): leaf for leaf in candidate.leaves if leaf.is_state}
    held = {x.storage: (leaves[x.name].storage, x.name) for x in reference.leaves if x.is_state and x.name in leaves}
    for pair in alignment.pairs:
        calls = reference.calls[pair.reference], candidate.calls[pair.candidate]
        for a, b in paired(*calls, "reads") if calls[0].site.phase == "forward" else ():
            both = mine.get(a.storage), others.get(b.storage)
            if all(one is not None and one.site.phase == "update" for one in both):
                held.setdefault(a.storage, (b.storage, str(a.site)))
    for storage, (other, name) in held.items():
        if storage in mine and other in others:
            yield _of_events((mine[storage], others[other]), name, (reference, candidate))


def _last_written(trace: Trace) -> dict[int, Event]:
    """Storage → what was written into it last."""
    return {event.storage: event for call in trace.calls for event in call.writes if not event.is_look}


def _of_events(events: tuple[Event, Event], name: str, traces: tuple[Trace, Trace]) -> Compared:
    slot = Slot(0, name)
    ours, theirs = (_of_event(slot, event, trace) for event, trace in zip(events, traces, strict=True))
    return _compared(slot, ours, theirs, (), {})


def _lone(slot: Slot, side: Literal["reference", "candidate"]) -> Compared:
    return Compared(slot, "lone", Comparison("not_compared", f"only the {side} has it"), only=side)


def _compared(
    slot: Slot, reference: Output | None, candidate: Output | None, axes: tuple[Axis, ...], rows: Mapping[Slot, Rows]
) -> Compared:
    if reference is None or candidate is None:
        alone = reference or candidate
        if alone is not None and alone.kind == "left_out":
            return Compared(slot, "left_out", Comparison("not_compared", f"{alone.text}: no numbers"))
        return _lone(slot, "reference" if candidate is None else "candidate")
    both = (reference, candidate)
    unread = next((one for one in both if one.kind == "unreadable"), None)
    if unread is not None:
        return Compared(slot, "unreadable", Comparison("not_compared", unread.text))
    if reference.kind != candidate.kind:
        kinds = [f"{one.type} ({one.kind.replace('_', ' ')})" for one in both]
        return Compared(
            slot, "kind", Comparison("differs", f"{kinds[0]} in the reference, {kinds[1]} in the candidate")
        )
    if reference.kind == "left_out":
        return Compared(slot, "left_out", Comparison("not_compared", f"{reference.text}: no numbers"))
    if reference.type == candidate.type == _NOTHING:
        return Compared(slot, "nothing", Comparison("agrees"))
    if reference.kind in ("text", "empty"):
        return _texts(slot, reference.text, candidate.text)
    if reference.payload is None or candidate.payload is None:
        return _by_fingerprint(slot, reference, candidate)
    return _numeric(slot, reference.payload, candidate.payload, axes, rows)


def _texts(slot: Slot, reference: str, candidate: str) -> Compared:
    if reference == candidate:
        return Compared(slot, "equal", Comparison("agrees"))
    both = min(len(reference), len(candidate))
    at = next((n for n in range(both) if reference[n] != candidate[n]), both)
    return Compared(slot, "text", Comparison("differs", f"the texts part at character {at} of {len(reference)}"))


def _by_fingerprint(slot: Slot, reference: Output, candidate: Output) -> Compared:
    ours, theirs = reference.spec, candidate.spec
    prints = _fingerprint(reference), _fingerprint(candidate)
    if ours is None or theirs is None or None in prints:
        return Compared(slot, "undecided", Comparison("not_compared", "neither its bits nor a fingerprint were kept"))
    if ours.shape != theirs.shape:
        return Compared(slot, "shape", Comparison("differs", f"{ours} in the reference, {theirs} in the candidate"))
    if ours.dtype != theirs.dtype:
        return Compared(slot, "undecided", Comparison("not_compared", "fingerprints of different dtypes"))
    if prints[0] == prints[1]:
        return Compared(slot, "equal", Comparison("agrees"))
    return Compared(slot, "values", Comparison("differs", "it differs; how much was not recorded"))


def _fingerprint(output: Output) -> Fingerprint | None:
    return output.fingerprint if output.payload is None else fingerprint_bytes(output.payload.bits)


def _numeric(
    slot: Slot, reference: Payload, candidate: Payload, axes: tuple[Axis, ...], rows: Mapping[Slot, Rows]
) -> Compared:
    ours, theirs = (compared(rows, slot, one) for one in counterparts(reference, candidate, axes))
    comparison = compare_payloads(ours, theirs)
    both = (ours, theirs)
    if ours.bits.shape != theirs.bits.shape:
        return Compared(slot, "shape", comparison, numbers=both)
    if comparison.status == "not_compared":
        return Compared(slot, "kind", Comparison("differs", comparison.reason), numbers=both)
    if ours.dtype != theirs.dtype:
        return Compared(slot, "dtype" if comparison.status == "agrees" else "values", comparison, numbers=both)
    if comparison.status == "agrees":
        hidden = rows.get(slot)
        whole = counterparts(reference, candidate, axes)
        apart = hidden is not None and not hidden.asked and compare_payloads(*whole).status != "agrees"
        padding = hidden.left_out if apart and hidden is not None else 0
        return Compared(slot, "equal", comparison, numbers=both, padding=padding)
    return Compared(slot, "nan_bits" if _only_nans_differ(*both) else "values", comparison, numbers=both)


def _only_nans_differ(reference: Payload, candidate: Payload) -> bool:
    """Whether every element is NaN on both sides, or has the same bits."""
    if is_integer(reference.dtype):
        return False
    ours, theirs = (values(payload.bits, payload.dtype) for payload in (as_reals(reference), as_reals(candidate)))
    nan = np.isnan(ours) & np.isnan(theirs)
    return bool(np.all(nan | ((ours == theirs) & (np.signbit(ours) == np.signbit(theirs)))))
