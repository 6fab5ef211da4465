"""The outputs as the programs really gave them, and what may be said of them: every rule stands here.

The *anchor* of a live side is what it returned when it ran plainly, before anything else; of a trace, what was
recorded. Where neither run returns anything, what each wrote last and never read stands for it. No verdict
contradicts it. The first rule of `RULES` that applies decides:

| rule | when | verdict |
|---|---|---|
| `does_not_repeat` | a plain run differs from another plain run | as found inside (nondeterministic) |
| `ended_early` | all compared is bit-equal, a trace is cut | inconclusive |
| `nothing_compared` | no output could be compared | inconclusive, unless a difference was found inside |
| `not_all_readable` | all compared is bit-equal, some outputs could not be read | inconclusive |
| `other_structure` | all compared is bit-equal, one side has further outputs | incomparable |
| `equal` | every output is bit-equal | identical; what differs inside is a note |
| `another_dtype` | every value is equal, some in another dtype | precision |
| `other_shapes` | outputs have other shapes or kinds, and nothing worse was found | incomparable |
| `rerun_tells` | they differ, what was observed is not that, and unobserved reruns tell | rounding, precision or semantic |
| `looking_changed_it` | they differ, and observing changed a run | as found inside if that is severe, else inconclusive |
| `unseen` | they differ, and everything observed agrees | inconclusive: made where nobody looked |
| (none) | they differ, and so do the observed runs | as found inside |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whydiff.explain.case import Case
from whydiff.explain.reruns import Rerun
from whydiff.locate.rows import Rows, compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.fingerprint import fingerprint_bytes
from whydiff.pair.lockstep import paired
from whydiff.pair.replay import returns
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import (
    Alignment,
    Cause,
    Comparison,
    Count,
    Event,
    Fingerprint,
    Output,
    Payload,
    Slot,
    Trace,
    Verdict,
)

Found = Literal["equal", "values", "dtype", "shape", "kind", "text", "lone", "unreadable", "undecided", "left_out"]
_COUNTED: tuple[Found, ...] = ("equal", "values", "dtype", "shape", "kind", "text")


@dataclass(frozen=True, slots=True)
class Compared:
    """One output of both runs.

    Attributes:
        slot: in the reference's numbering of returns.
        found: ``equal`` (no bit differs), ``values``, ``dtype`` (equal values), ``shape``, ``kind`` (a number
            against a text), ``text``, ``lone`` (only one run has it), ``unreadable``, ``undecided`` (fingerprints of
            different dtypes), ``left_out`` (holds no numbers, on both sides).
        comparison: for the report.
        only: the side that alone has it.
        numbers: both values, cut to what corresponds, where both are held.
    """

    slot: Slot
    found: Found
    comparison: Comparison
    only: Literal["", "reference", "candidate"] = ""
    numbers: tuple[Payload, Payload] | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """Every output of both runs.

    Attributes:
        outputs: in the reference's order, then what only the candidate has.
        substitute: nothing was returned; these are the values that were written last.
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

    def counts(self) -> tuple[Count, ...]:
        """Outputs that were not compared, by reason."""
        reasons: dict[str, list[str]] = {}
        for one in self.having("lone", "unreadable", "undecided", "left_out"):
            reasons.setdefault(one.comparison.reason, []).append(str(one.slot))
        return tuple(
            Count(what="outputs", reason=why, count=len(slots), examples=tuple(slots[:3]))
            for why, slots in reasons.items()
        )

    def comparisons(self) -> tuple[tuple[str, Comparison], ...]:
        """What the report shows of each output."""
        return tuple((str(one.slot), one.comparison) for one in self.outputs if one.found != "left_out")


# --------------------------------------------------------------------------- comparing


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
    if not ours and not theirs:
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
    """Compare outputs whose returns are numbered alike."""
    named = {output.slot: output for output in candidate}
    found = [_compared(x.slot, x, named.pop(x.slot, None), axes, rows or {}) for x in reference]
    found += [_compared(slot, None, output, axes, rows or {}) for slot, output in named.items()]
    return Anchor(tuple(found))


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
    """Index of a call → storages that it writes last and that nothing reads afterwards."""
    open_now: dict[int, int] = {}
    for call in trace.calls:
        for event in call.reads:
            open_now.pop(event.storage, None)
        for event in call.writes:
            if event.storage >= 0 and not (event.is_look or event.uninitialised):
                open_now[event.storage] = call.index
    found: dict[int, set[int]] = {}
    for storage, index in open_now.items():
        found.setdefault(index, set()).add(storage)
    return found


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
    return Compared(slot, "values", Comparison("differs", "other fingerprint; no payload to measure"))


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
    return Compared(slot, "equal" if comparison.status == "agrees" else "values", comparison, numbers=both)


# --------------------------------------------------------------------------- judging


@dataclass(frozen=True, slots=True)
class Inside:
    """What the observed runs say.

    Attributes:
        verdict, reason: of origins, causes and measurements.
        agree: no output differs in the observed runs, and no difference starts in them.
        varying: sides of which a plain run differs from another plain run.
        changed: sides that observing changed.
        cut: sides whose trace ended early.
        origins: how many places differ.
        unpaired: how many calls have no counterpart.
        proven: a cause was confirmed by running the program again unobserved.
        rerun: how the difference behaves in unobserved runs at two precisions; None: it cannot be told.
    """

    verdict: Verdict
    reason: str
    agree: bool = False
    varying: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    origins: int = 0
    unpaired: int = 0
    proven: bool = False
    rerun: Rerun | None = None


def inside(
    case: Case, verdict: Verdict, reason: str, causes: Sequence[Cause] = (), rerun: Rerun | None = None
) -> Inside:
    """The observed runs' verdict with what `RULES` ask for besides."""
    unobserved = [e for cause in causes if cause.status == "confirmed" and not cause.inert for e in cause.experiments]
    local = case.localization
    sides = (("reference", case.reference), ("candidate", case.candidate))
    differing = any(comparison.status == "differs" for _, comparison in local.outputs)
    return Inside(
        verdict=verdict,
        reason=reason,
        agree=not differing and not local.origins,
        varying=tuple(name for name, trace in sides if trace.observer.deterministic is False),
        changed=tuple(name for name, trace in sides if trace.observer.unchanged is False),
        cut=tuple(name for name, trace in sides if not trace.complete),
        origins=len(local.origins),
        unpaired=len(case.alignment.unpaired_reference) + len(case.alignment.unpaired_candidate),
        proven=any(experiment.method == "rerun" for experiment in unobserved),
        rerun=rerun,
    )


Judged = tuple[Verdict, str] | None
Rule = Callable[[Anchor, Inside], Judged]


def does_not_repeat(found: Anchor, inside: Inside) -> Judged:
    """A run differs from itself: what it returned once decides nothing."""
    return (inside.verdict, inside.reason) if inside.varying else None


def ended_early(found: Anchor, inside: Inside) -> Judged:
    """A cut trace is no agreement."""
    if not inside.cut or not (found.agree or not found.compared) or inside.verdict is not Verdict.IDENTICAL:
        return (inside.verdict, inside.reason) if inside.cut and found.agree else None
    return Verdict.INCONCLUSIVE, f"because the {_names(inside.cut)} ended early; zero bits differ until then"


def nothing_compared(found: Anchor, inside: Inside) -> Judged:
    """No output was compared: that is no agreement."""
    if found.compared:
        return None
    if inside.verdict is not Verdict.IDENTICAL and (inside.unpaired or not inside.agree):
        return inside.verdict, inside.reason
    missing = _listed(found.having("unreadable", "undecided", "lone")) or "the runs returned nothing that holds numbers"
    return Verdict.INCONCLUSIVE, f"because nothing could be compared: {missing}"


def not_all_readable(found: Anchor, inside: Inside) -> Judged:
    """What was compared is equal, and something could not be."""
    unread = found.having("unreadable", "undecided")
    if not found.agree or not unread:
        return None
    if inside.verdict is not Verdict.IDENTICAL and not inside.agree:
        return inside.verdict, inside.reason
    return Verdict.INCONCLUSIVE, (
        f"because {_listed(unread)} could not be compared; the other {len(found.compared)} outputs are bit-equal"
    )


def other_structure(found: Anchor, inside: Inside) -> Judged:
    """What was compared is equal, and one side returns more."""
    lone = found.having("lone")
    if not found.agree or not lone:
        return None
    sides = _names(tuple(dict.fromkeys(one.only for one in lone)))
    return Verdict.INCOMPARABLE, (
        f"only the {sides} returned {_slots(lone)}; the other {len(found.compared)} outputs are bit-equal"
    )


def equal(found: Anchor, inside: Inside) -> Judged:
    """Every output was compared and is bit-equal, whatever the insides say."""
    if not found.equal:
        return None
    what = "values that nothing reads" if found.substitute else "outputs"
    reason = f"zero bits differ in the {len(found.compared)} {what}"
    if inside.verdict is Verdict.IDENTICAL:
        return Verdict.IDENTICAL, inside.reason
    if inside.origins or inside.unpaired:
        reason += f"; inside, {inside.origins} places differ and {inside.unpaired} calls have no counterpart"
    return Verdict.IDENTICAL, reason


def another_dtype(found: Anchor, inside: Inside) -> Judged:
    """All values are equal; some are stored in another dtype."""
    if not found.compared or any(one.found not in ("equal", "dtype") for one in found.compared):
        return None
    if found.having("lone", "unreadable", "undecided"):
        return None
    if inside.verdict is Verdict.PRECISION:
        return inside.verdict, inside.reason
    return Verdict.PRECISION, f"the outputs hold equal values in other dtypes: {_slots(found.having('dtype'))}"


def other_shapes(found: Anchor, inside: Inside) -> Judged:
    """Outputs of other shapes or kinds are no counterparts."""
    other = found.having("shape", "kind")
    if not other or inside.verdict not in (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION):
        return None
    return Verdict.INCOMPARABLE, f"outputs have other shapes or kinds: {_listed(other)}"


_WHERE_NOBODY_LOOKED = {
    Verdict.SEMANTIC: "the outputs differ at any precision, where nobody looked",
    Verdict.PRECISION: "the same function with another number of bits, where nobody looked",
    Verdict.ROUNDING: "the same function, rounded in another way where nobody looked",
}


def rerun_tells(found: Anchor, inside: Inside) -> Judged:
    """The observed runs are not the difference; the same values at another precision, unobserved, may tell."""
    numbers = inside.rerun
    if numbers is None or not (inside.changed or inside.agree):
        return None
    verdict = numbers.verdict
    if verdict is Verdict.ROUNDING and inside.proven and inside.verdict is Verdict.PRECISION:
        return inside.verdict, f"{inside.reason}; {numbers}"
    return None if verdict is Verdict.INCONCLUSIVE else (verdict, f"{_WHERE_NOBODY_LOOKED[verdict]}; {numbers}")


def looking_changed_it(found: Anchor, inside: Inside) -> Judged:
    """The observed runs are other runs than those that gave the outputs."""
    if not inside.changed:
        return None
    severe = not inside.agree and inside.verdict.severity >= Verdict.SEMANTIC.severity
    if severe or inside.proven:
        return inside.verdict, inside.reason
    what = "makes the difference go away" if inside.agree else "changes the difference"
    return Verdict.INCONCLUSIVE, (
        f"because looking {what}: observing changed the {_names(inside.changed)}, and the plain outputs differ "
        f"({_listed(_differing(found))})"
    )


def unseen(found: Anchor, inside: Inside) -> Judged:
    """The observed runs agree, and the outputs do not: the difference is made where nobody looked."""
    if not inside.agree and inside.verdict is not Verdict.IDENTICAL:
        return None
    return Verdict.INCONCLUSIVE, (
        "because every op that was observed agrees and the outputs differ: the difference is made outside of them "
        f"(in Python, numpy, another thread or a library); {_listed(_differing(found))}"
    )


RULES: tuple[Rule, ...] = (
    does_not_repeat,
    ended_early,
    nothing_compared,
    not_all_readable,
    other_structure,
    equal,
    another_dtype,
    other_shapes,
    rerun_tells,
    looking_changed_it,
    unseen,
)


def anchored(found: Anchor, inside: Inside) -> tuple[Verdict, str]:
    """The verdict on the outputs as they were, by the first rule that applies."""
    for rule in RULES:
        judged = rule(found, inside)
        if judged is not None:
            return judged
    return inside.verdict, inside.reason


def _differing(found: Anchor) -> tuple[Compared, ...]:
    return tuple(one for one in found.outputs if one.found not in ("equal", "left_out"))


def _names(sides: Sequence[str]) -> str:
    return " and the ".join(sides)


def _slots(outputs: Sequence[Compared]) -> str:
    return ", ".join(str(one.slot) for one in outputs[:3]) + (" …" if len(outputs) > 3 else "")


def _listed(outputs: Sequence[Compared]) -> str:
    text = "; ".join(f"{one.slot}: {one.comparison.reason}" for one in outputs[:3])
    return text + (" …" if len(outputs) > 3 else "")
