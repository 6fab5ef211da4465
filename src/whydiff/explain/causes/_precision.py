"""Parts of a program that run in another dtype on the two sides: what the precision causes share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import View
from whydiff.explain.read_alike import casts_and_others, given_back, told_apart
from whydiff.explain.restoring import HELD
from whydiff.explain.rounded_numbers import all_given_back, numbers_back
from whydiff.explain.sides import SIDES
from whydiff.numbers.casts import Cast, farther_than_rounding
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Event, Intervention, Leaf, Remedy


@dataclass(frozen=True, slots=True)
class Narrowing:
    """One side rounds where the other does not.

    Attributes:
        side: 0 the reference, 1 the candidate: which has fewer bits here.
        dtypes: of the reference's and of the candidate's value.
        casts: calls of that side that only round; empty if an op itself works in the narrower dtype.
        readers: paired calls (reference, candidate) that read the value, or that are the op itself.
    """

    side: int
    dtypes: tuple[str, str]
    casts: tuple[Call, ...]
    readers: tuple[tuple[Call, Call], ...]


def narrowing(view: View) -> Narrowing | None:
    """What is rounded at an origin that computes one function on both sides; None: nothing, or both sides."""
    if not view.one_function:
        return None
    dtypes = view.seen.results[0].spec.dtype, view.seen.results[1].spec.dtype
    units = tuple(UNIT_ROUNDOFF.get(dtype, 0.0) for dtype in dtypes)
    if units[0] == units[1] or not all(units):
        return None
    side = int(units[1] > units[0])
    calls = view.seen.calls
    if view.origin.kind != "region":
        return Narrowing(side, dtypes, (), ((calls[0][0], calls[1][0]),))
    if calls[1 - side]:
        return None
    return Narrowing(side, dtypes, tuple(calls[side]), readers(view.case, *view.seen.results))


def readers(case: Case, reference: Event, candidate: Event) -> tuple[tuple[Call, Call], ...]:
    """Paired calls that read two values at the same place."""
    found = []
    for ours, theirs in case.paired():
        if _reads(ours, reference) and _reads(theirs, candidate):
            found.append((ours, theirs))
    return tuple(found)


def _reads(call: Call, event: Event) -> bool:
    return any(e.storage == event.storage and e.producer == event.producer for e in call.reads)


def in_the_other_dtype(case: Case, found: Narrowing) -> tuple[Intervention, ...]:
    """The candidate's ops in the reference's dtypes, from here on until both sides' dtypes agree again."""
    partner = {theirs.index: ours for ours, theirs in case.paired()}
    wide = found.dtypes[0]
    chosen: dict[int, str] = {}
    if found.side == 1:
        chosen = {call.index: wide for call in found.casts}
    roles = for_framework(case.candidate.framework).roles
    waiting = [theirs.index for ours, theirs in found.readers if _differ(ours, theirs)]
    chosen |= {index: _dtype(partner[index]) for index in waiting}
    waiting += [call.index for call in found.casts if found.side == 1]
    for call in case.candidate.calls[min(waiting, default=len(case.candidate.calls)) :]:
        if call.kind == "view" or call.index in chosen or not _from(call, chosen):
            continue
        ours = partner.get(call.index)
        if call.kind == "return":
            if ours is not None and any(_unlike(a, b) for a, b in _by_slot(ours, call)):
                chosen[call.index] = wide
        elif ours is None:
            if len(call.reads) == 1 and found.side == 1 and Role.CAST in roles(call.site.op):
                chosen[call.index] = wide
        elif _differ(ours, call):
            chosen[call.index] = _dtype(ours)
    calls = case.candidate.calls
    if found.side == 1:
        chosen |= dict.fromkeys(_narrow_before(case, chosen, found.dtypes), wide)
    return tuple(Intervention("set-dtype", str(calls[index].site), dtype) for index, dtype in sorted(chosen.items()))


def _narrow_before(case: Case, chosen: Iterable[int], dtypes: tuple[str, str]) -> list[int]:
    """Candidate's ops that only lead to chosen ones and write the narrow dtype, where the reference writes none."""
    partner = {theirs.index: ours for ours, theirs in case.paired()}
    wide, narrow = dtypes
    found, known = list[int](), set(chosen)
    readers: dict[int, set[int]] = {}
    for call in case.candidate.calls:
        for event in call.reads if call.kind != "view" else ():
            readers.setdefault(event.producer, set()).add(call.index)
    for call in reversed(case.candidate.calls[: max(known, default=0)]):
        ours = partner.get(call.index)
        alone = ours is None or _dtype(ours) == wide
        if _dtype(call) == narrow and alone and readers.get(call.index) and readers[call.index] <= known:
            found.append(call.index)
            known.add(call.index)
    return found


def whole_cast(case: Case) -> tuple[Cast, tuple[Intervention, ...]] | None:
    """How one side is the other cast as a whole, state, inputs and arithmetic, and what takes that away; None: it is not.

    A tensor alone that was cast is no such thing: the wide side computes nowhere in the narrow dtype, and unless all
    parameters were cast the arithmetic does not follow from the state by itself.
    """
    return case.shared("whole cast", lambda: _whole_cast(case))


def _whole_cast(case: Case) -> tuple[Cast, tuple[Intervention, ...]] | None:
    found = undone(case)
    if found is None or found.changed:
        return None
    if not _all_parameters(case, SIDES.index(found.cast.rounded)) and case.experiments.equal_if_told(given_back(case)):
        return None
    for pairs in (None, case.differing_leaves):  # an input that the wide side rounds by itself is not given back
        interventions = *all_given_back(case, pairs), *found.dtypes
        if case.experiments.equal_if_told(interventions):
            return found.cast, interventions
    return None


@dataclass(frozen=True, slots=True)
class Undone:
    """How one side computes in a narrower dtype on the other side's tensors, rounded, whatever else differs.

    Attributes:
        cast: of every tensor that differs, but for ``changed``.
        dtypes: interventions that let the candidate's ops compute in the reference's dtypes.
        put_in: what makes the reference that side: the candidate's tensors and dtypes.
        back: gives the candidate the reference's tensors; of those that were changed too, their dtype alone.
        changed: state (the reference's, the candidate's) that was cast alike and holds other values besides.
    """

    cast: Cast
    dtypes: tuple[Intervention, ...]
    put_in: tuple[Intervention, ...]
    back: tuple[Intervention, ...]
    changed: tuple[tuple[Leaf, Leaf], ...] = ()


def undone(case: Case) -> Undone | None:
    """A side that was cast, its arithmetic with it; None: neither was."""
    return case.shared("cast undone", lambda: _undone(case))


def _undone(case: Case) -> Undone | None:
    if any(ours.spec.dtype == theirs.spec.dtype for ours, theirs in told_apart(case)):
        return None
    casts, changed = casts_and_others(case)
    casts = tuple(cast for cast in casts if cast.changed)  # else either side may be the rounded one
    if len({(cast.rounded, cast.wide, cast.narrow) for cast in casts}) != 1 or casts[0].stored != casts[0].narrow:
        return None
    cast = casts[0]
    side = SIDES.index(cast.rounded)
    written = [{e.spec.dtype for c in one.calls if _computes(case, c) for e in c.writes} for one in case.traces]
    if cast.narrow in written[1 - side] or cast.narrow not in written[side]:
        return None
    if not all(_is_changed(case, pair, cast) for pair in changed):
        return None
    back = given_back(case, [pair for pair in told_apart(case) if pair not in changed])
    held = tuple(Intervention(i.name, i.value or i.target, i.target if i.value else None) for i in back)
    as_theirs = tuple(Intervention(HELD, theirs.name, ours.spec.dtype) for ours, theirs in changed)
    as_ours = tuple(Intervention(HELD, ours.name, theirs.spec.dtype) for ours, theirs in changed)
    return Undone(
        cast,
        _dtypes(case, cast, 1),
        (*held, *as_ours, *numbers_back(case, "reference"), *_dtypes(case, cast, 0)),
        (*back, *as_theirs),
        changed,
    )


def _is_changed(case: Case, pair: tuple[Leaf, Leaf], cast: Cast) -> bool:
    """Whether state was cast alike and holds other values besides: by more than another way of rounding makes of them."""
    ours, theirs = pair
    side = SIDES.index(cast.rounded)
    dtypes = pair[1 - side].spec.dtype, pair[side].spec.dtype
    if not (ours.is_state and theirs.is_state) or dtypes != (cast.wide, cast.narrow):
        return False
    if ours.spec.shape != theirs.spec.shape or theirs.storage < 0 or ours.storage < 0:
        return False
    wide, narrow = (case.payload(leaf, SIDES[i]) for leaf, i in ((pair[1 - side], 1 - side), (pair[side], side)))
    return farther_than_rounding(wide, narrow)


def _dtypes(case: Case, cast: Cast, side: int) -> tuple[Intervention, ...]:
    """A side's ops in the other side's dtypes; those without a counterpart in the dtype that the other side computes in."""
    partner = {both[side].index: both[1 - side] for both in case.paired()}
    narrow = side == SIDES.index(cast.rounded)
    mine, other = (cast.narrow, cast.wide) if narrow else (cast.wide, cast.narrow)
    chosen: list[tuple[Call, str]] = []
    for call in case.traces[side].calls:
        theirs = partner.get(call.index)
        if call.kind == "return":
            chosen += [(call, a.spec.dtype) for a, b in _by_slot(theirs, call) if _unlike(a, b)][:1] if theirs else []
        elif call.kind == "view":
            continue
        elif theirs is None and mine in {e.spec.dtype for e in (*call.reads, *call.writes)}:
            chosen.append((call, other))
        elif theirs is not None and (_differ(theirs, call) or any(_unlike(a, b) for a, b in _by_slot(theirs, call))):
            chosen.append((call, _dtype(theirs)))
    return tuple(Intervention("set-dtype", str(call.site), to) for call, to in chosen)


def _computes(case: Case, call: Call) -> bool:
    return call.kind == "compute" and Role.CAST not in for_framework(case.reference.framework).roles(call.site.op)


def to_be_allowed(narrow: str, wide: str) -> Remedy:
    """A whole side in a narrower dtype is what was asked for."""
    return Remedy(
        f"This is what {narrow} gives: allow it with --allow precision. If it is too much, keep in {wide} what is "
        "sensitive (norms, softmax, logits, the loss).",
        accepts=True,
    )


def _all_parameters(case: Case, side: int) -> bool:
    """Whether every parameter of a side that has digits to lose differs; False without any."""
    differing = {pair[side].name for pair in told_apart(case)}
    leaves = case.traces[side].leaves
    floats = {x.name for x in leaves if x.role == "parameter" and x.spec.dtype in UNIT_ROUNDOFF}
    return bool(floats) and floats <= differing


def _from(call: Call, chosen: Iterable[int]) -> bool:
    known = set(chosen)
    return any(event.producer in known for event in call.reads)


def _by_slot(ours: Call, theirs: Call) -> list[tuple[Event, Event]]:
    slots = {event.site.slot: event for event in theirs.reads}
    return [(event, slots[event.site.slot]) for event in ours.reads if event.site.slot in slots]


def _unlike(ours: Event, theirs: Event) -> bool:
    known = ours.spec.dtype in UNIT_ROUNDOFF and theirs.spec.dtype in UNIT_ROUNDOFF
    return known and ours.spec.dtype != theirs.spec.dtype


def _differ(ours: Call, theirs: Call) -> bool:
    return any(_unlike(a, b) for a, b in zip(ours.writes, theirs.writes, strict=False))


def _dtype(call: Call) -> str:
    return next((e.spec.dtype for e in call.writes if e.spec.dtype in UNIT_ROUNDOFF), "")


def autocast(case: Case, call: Call, side: int) -> str:
    """Dtype to which the autocast region that a call ran in casts on the call's device; empty outside."""
    contexts: Any = case.traces[side].contexts
    context = contexts[call.context] if call.context < len(contexts) else {}
    region = str(context.get("autocast") or "")
    dtypes = dict(
        part.split(" ") for part in region.split(", ") if part.count(" ") == 1
    )  # "cpu bfloat16, cuda float16"
    device = next((event.spec.device.partition(":")[0] for event in (*call.writes, *call.reads)), "")
    return dtypes.get(device, region)
