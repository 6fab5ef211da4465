"""What both runs gave back, compared place by place: the anchor that `whydiff.judge.anchor` has the rules about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from whydiff.locate.rows import Rows, compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.numbers.metrics import is_integer
from whydiff.numbers.pieces import in_pieces
from whydiff.pair.lockstep import paired
from whydiff.pair.replay import output_of, recorded_outputs, returns
from whydiff.pair.scripts import never_read
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Alignment, Comparison, Count, Fingerprint, Output, Payload, Slot, Trace

Array = np.ndarray[Any, Any]
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


@dataclass(frozen=True, slots=True)
class Compared:
    """One output of both runs.

    Attributes:
        slot: in the reference's numbering of returns.
        found: ``equal`` (no bit differs), ``values``, ``nan_bits`` (bits of NaN alone), ``dtype`` (equal values),
            ``shape``, ``kind`` (a number against a text), ``text``, ``lone`` (only one run has it), ``unreadable``,
            ``undecided`` (fingerprints of different dtypes), ``left_out`` (holds no numbers, on both sides), ``nothing``
            (None or an empty container on both sides, or tensors without elements: agreement about nothing).
        comparison: for the report.
        numbers: both values, cut to what corresponds, where both are held.
        padding: how many rows were found to be padding, are not compared, and differ.
    """

    slot: Slot
    found: Found
    comparison: Comparison
    numbers: tuple[Payload, Payload] | None = None
    padding: int = 0


@dataclass(frozen=True, slots=True)
class Anchor:
    """Every output of both runs.

    Attributes:
        outputs: in the reference's order, then what only the candidate has.
        substitute: neither run returned anything; these are the values that were written last.
    """

    outputs: tuple[Compared, ...] = ()
    substitute: bool = False

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

    @property
    def hollow(self) -> bool:
        """Whether both sides returned the same, and no number in it: tensors without elements, None beside them."""
        return bool(self.outputs) and not self.substitute and all(one.found == "nothing" for one in self.outputs)

    def counts(self) -> tuple[Count, ...]:
        """Outputs that were not compared, by reason."""
        reasons: dict[str, list[str]] = {}
        for one in self.having("lone", "unreadable", "undecided", "left_out", "nothing"):
            if one.comparison.reason:  # None or an empty container on both sides needs none
                reasons.setdefault(one.comparison.reason, []).append(str(one.slot))
        counts = [
            Count(what="outputs", reason=why, count=len(slots), examples=tuple(slots[:3]))
            for why, slots in reasons.items()
        ]
        if self.substitute:
            counts.append(Count("returned values", _WRITTEN, 1, code="nothing returned"))
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
    if _say_nothing(ours, theirs):
        return Anchor(tuple(_ends(reference, candidate, alignment)), substitute=True)
    numbers = _numbers(reference, candidate, alignment)
    unknown = len(returns(reference.calls))  # a return that is paired with none comes after all of the reference's
    renumbered = [
        replace(x, slot=Slot(numbers.get(x.slot.number, unknown + x.slot.number), x.slot.name)) for x in theirs
    ]
    return between(ours, renumbered, axes, rows)


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


def _say_nothing(ours: Sequence[Output], theirs: Sequence[Output]) -> bool:
    """Whether both runs returned None alone, or the same containers, all of them empty."""
    both = (*ours, *theirs)
    if all(output.type == _NOTHING for output in both):
        return True
    same = [(one.slot.name, one.text) for one in ours] == [(one.slot.name, one.text) for one in theirs]
    return same and all(output.kind == "empty" for output in both)


def _place(output: Output) -> tuple[int, str]:
    return output.slot.number, output.places or output.slot.name


def _numbers(reference: Trace, candidate: Trace, alignment: Alignment) -> dict[int, int]:
    """Number of a candidate's return → number of the reference's return that it is paired with."""
    ours, theirs = returns(reference.calls), returns(candidate.calls)
    if len(ours) <= 1 and len(theirs) <= 1:
        return {0: 0}
    return {theirs[p.candidate]: ours[p.reference] for p in alignment.pairs if p.reference in ours}


def _ends(reference: Trace, candidate: Trace, alignment: Alignment) -> list[Compared]:
    """Values that neither run reads after it wrote them, by the calls that are paired."""
    last = [_last_made(trace) for trace in (reference, candidate)]
    found, done = [], [set[int](), set[int]()]
    for pair in alignment.pairs:
        ours, theirs = reference.calls[pair.reference], candidate.calls[pair.candidate]
        for a, b in paired(ours, theirs, "writes"):
            if a.uninitialised and b.uninitialised:
                continue
            if a.storage in last[0].get(ours.index, ()) and b.storage in last[1].get(theirs.index, ()):
                slot = Slot(0, str(a.site))
                outputs = output_of(slot, a, reference), output_of(slot, b, candidate)
                found.append(_compared(slot, *outputs, (), {}))
                done[0].add(ours.index)
                done[1].add(theirs.index)
    for number, (trace, side) in enumerate(((reference, "reference"), (candidate, "candidate"))):
        for index in last[number]:
            if index not in done[number] and trace.calls[index].kind == "compute":
                found.append(_lone(Slot(0, str(trace.calls[index].site)), side))  # type: ignore[arg-type]
    return found


def _last_made(trace: Trace) -> dict[int, set[int]]:
    """Index of a call → storages that it writes and that go no further: nothing reads them, or Python does (``item``)."""
    found: dict[int, set[int]] = {}
    read_by_python = (event for call in trace.calls if call.gives for event in call.reads)
    for event in (*read_by_python, *never_read(trace).values()):
        found.setdefault(event.producer, set()).add(event.storage)
    return found


def _lone(slot: Slot, side: Literal["reference", "candidate"]) -> Compared:
    return Compared(slot, "lone", Comparison("not_compared", f"only the {side} has it", only=side))


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
    if reference.kind == "empty" and reference.text == candidate.text:
        return Compared(slot, "nothing", Comparison("agrees"))
    if reference.kind in ("text", "empty"):
        return _texts(slot, reference.text, candidate.text)
    if _without_elements(reference) and _without_elements(candidate) and _shape(reference) == _shape(candidate):
        return Compared(slot, "nothing", Comparison("agrees", "no elements"))
    if reference.payload is None or candidate.payload is None:
        return _by_fingerprint(slot, reference, candidate)
    return _numeric(slot, reference.payload, candidate.payload, axes, rows)


def _shape(output: Output) -> tuple[int, ...] | None:
    if output.payload is not None:
        return tuple(output.payload.bits.shape)
    return None if output.spec is None else output.spec.shape


def _without_elements(output: Output) -> bool:
    return 0 in (_shape(output) or ())


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
    apart = bool(comparison.value("max_abs"))  # then numbers differ that are none of them
    return Compared(slot, "nan_bits" if not apart and _only_nans_differ(*both) else "values", comparison, numbers=both)


def _only_nans_differ(reference: Payload, candidate: Payload) -> bool:
    """Whether every element is NaN on both sides, or has the same bits."""
    if is_integer(reference.dtype):
        return False

    def only(ours: Array, theirs: Array) -> bool:
        nan = np.isnan(ours) & np.isnan(theirs)
        return bool(np.all(nan | ((ours == theirs) & (np.signbit(ours) == np.signbit(theirs)))))

    return all(in_pieces(only, reference, candidate))
