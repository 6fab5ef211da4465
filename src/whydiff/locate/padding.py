"""Rows that have no counterpart because they are padding, and differences that reach no output: by experiment.

Names prove nothing. A tensor of zeros and ones that both runs read or compute with the same bits *hides* rows if

1. with other values in those rows, they change in the outputs, and no bit of any other row does, in both runs; and
2. with the first of them shown (its entry flipped), some row besides it does change: so the entries decide what
   other rows see, and are no flags of single rows (token types, labels).

A difference *reaches no output* if other values in the rows that differ change no bit of what is returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Executor, Progress, Value, for_framework
from whydiff.errors import UsageError, WhydiffError
from whydiff.locate.localization import Localization
from whydiff.locate.rows import Array, Rows, fitted
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.tolerance import WHOLE_ROW
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.replay import Outputs, Watch, replay
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Alignment, Call, Event, Leaf, Payload, Slot, Trace

_MOST_MASKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A tensor of zeros and ones that a run reads or computes.

    Attributes:
        name: of the input, or the site that computes it.
        values: bool, as the run has it.
        event: what writes it; None for an input.
    """

    name: str
    values: Array
    event: Event | None


@dataclass(frozen=True, slots=True)
class Found:
    """What was found about rows.

    Attributes:
        localization: with the padded rows taken out of the outputs.
        notes: sentences for the report.
    """

    localization: Localization
    notes: tuple[str, ...] = ()


def leave_out(
    reference: Trace, candidate: Trace, local: Localization, rows: Any = None, progress: Progress | None = None
) -> Found:
    """Take padded rows out of the outputs' comparison.

    Args:
        reference, candidate: traces that can be replayed.
        local: with the outputs as they are.
        rows: the caller's choice: the name of an input whose nonzero entries are compared, or such a mask; None:
            found by experiment.
        progress: called with (stage, done, total).

    Raises:
        UsageError: ``rows`` names no input or fits no output.
    """
    if rows is not None:
        named = _named(reference, rows)
        chosen = [
            Rows(slot, keep, "they were named as rows not to compare")
            for slot, ours, _ in local.returned
            if (keep := fitted(named, ours.bits.shape)) is not None
        ]
        if not chosen:
            raise UsageError(
                "The mask of rows fits no output.",
                actual=f"shape {list(named.shape)}",
                expected=", ".join(f"{s}: {list(p.bits.shape)}" for s, p, _ in local.returned),
            )
        return _without(local, chosen)
    wanted = [slot for slot, comparison in local.outputs if comparison.status == "differs"]
    if not wanted:
        return Found(local)
    try:
        return _found(reference, candidate, local, progress)
    except WhydiffError as error:
        return Found(local, (f"whether rows of the outputs are padding was not found out: {error.what}",))


def _found(reference: Trace, candidate: Trace, local: Localization, progress: Progress | None) -> Found:
    shapes = [ours.bits.shape for _, ours, _ in local.returned if not is_integer(ours.dtype)]
    sides = (_Side(reference), _Side(candidate))
    if not all(any(True for _ in side.possible(shapes, local.axes)) for side in sides):
        return Found(local)
    if progress is not None:
        progress("look for padding", 0, 1)
    masks = [list(side.masks(shapes, local.axes)) for side in sides]
    pairs = [(a, b, alike) for a in masks[0] for b in masks[1] if (alike := _alike(a, b, local.axes)) is not None]
    why_not: list[str] = []
    for ours, theirs, cut in pairs[:_MOST_MASKS]:
        for shown in (True, False):
            keep = cut == shown
            if keep.all() or not keep.any():
                continue
            hidden = [side.hides(mask, shown) for side, mask in zip(sides, (ours, theirs), strict=True)]
            if all(hidden):
                why = (
                    f"{ours.name} hides them in both runs: with other values in them no bit of any other row changes, "
                    "and its entries decide what other rows see"
                )
                chosen = [
                    Rows(slot, at, why)
                    for slot, one, _ in local.returned
                    if not is_integer(one.dtype) and (at := fitted(keep, one.bits.shape)) is not None
                ]
                finite = [one for one in chosen if _finite_alike(one, local)]
                if finite:
                    return _without(local, finite)
                if chosen:
                    why_not.append(
                        f"{chosen[0].left_out} of {keep.size} rows are padding, which {ours.name} hides, but hold "
                        "NaN or infinity in one run only, so every row is compared"
                    )
            elif True in hidden and False in hidden:
                side = ("reference", "candidate")[hidden.index(True)]
                other = ("reference", "candidate")[hidden.index(False)]
                why_not.append(
                    f"{ours.name} hides {int((~keep).sum())} of {keep.size} rows in the {side} and not in the "
                    f"{other}, so every row is compared"
                )
    return Found(local, tuple(why_not[:1]))


def _alike(ours: Mask, theirs: Mask, axes: tuple[Axis, ...]) -> Array | None:
    """What two masks say of the rows that both runs have, if they say the same."""
    one, other = counterparts(Payload(ours.values, "bool"), Payload(theirs.values, "bool"), axes)
    return one.bits if one.bits.shape == other.bits.shape and np.array_equal(one.bits, other.bits) else None


def _finite_alike(rows: Rows, local: Localization) -> bool:
    """Whether NaN and infinity stand in the same places of both runs, also in rows that would be left out."""
    ours, theirs = next(
        (values(a.bits, a.dtype), values(b.bits, b.dtype)) for slot, a, b in local.returned if slot == rows.slot
    )
    return ours.shape == theirs.shape and np.array_equal(np.isfinite(ours), np.isfinite(theirs))


def _without(local: Localization, chosen: Sequence[Rows]) -> Found:
    by_slot = {one.slot: one for one in chosen if one.left_out}
    returned, outputs = [], []
    for (slot, ours, theirs), (name, comparison) in zip(local.returned, local.outputs, strict=True):
        one = by_slot.get(slot)
        if one is not None and ours.bits.shape == theirs.bits.shape:
            comparison = compare_payloads(one.of(ours), one.of(theirs))
            theirs = one.covered(ours, theirs)
        returned.append((slot, ours, theirs))
        outputs.append((name, comparison))
    counts = (*local.counts, *(one.count() for one in by_slot.values()))
    found = replace(local, outputs=tuple(outputs), returned=tuple(returned), counts=counts, rows=by_slot)
    return Found(found, tuple(f"not compared: {one}" for one in by_slot.values()))


def _named(reference: Trace, rows: Any) -> Array:
    if not isinstance(rows, str):
        return np.asarray(rows).astype(bool)
    leaf = next((leaf for leaf in reference.leaves if leaf.role == "input" and leaf.name == rows), None)
    if leaf is None:
        names = ", ".join(leaf.name for leaf in reference.leaves if leaf.role == "input")
        raise UsageError("There is no such input.", actual=rows, expected=f"a mask, or one of {names or 'no input'}")
    executor = for_framework(reference.framework).executor(reference)
    return _truth(executor.payload(executor.leaf_value(leaf)))


def _truth(payload: Payload) -> Array:
    return np.asarray(values(payload.bits, payload.dtype) != 0)


# --------------------------------------------------------------------------- one side's experiments


class _Side:
    """Replays of one run with some values changed."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self._plain: Outputs | None = None

    def possible(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[Axis]) -> Iterator[tuple[Event | None, Any]]:
        """(write, None) or (None, input) whose specs are those of a mask over an output's rows."""
        larger = {axis.small: axis.large for axis in axes}
        wanted = {size for shape in shapes for size in (shape[:2], shape[:1])}
        wanted |= {tuple(larger.get(n, n) for n in size) for size in wanted}

        def fits(shape: tuple[int, ...]) -> bool:
            return len(shape) == 2 and (shape in wanted or (shape[0] * shape[1],) in wanted)

        for leaf in self._inputs():
            if fits(leaf.spec.shape):
                yield None, leaf
        for call in self.trace.calls:
            if call.kind == "compute" and len(call.writes) == 1 and not call.mutates:
                event = call.writes[0]
                if event.storage >= 0 and is_integer(event.spec.dtype) and fits(event.spec.shape):
                    yield event, None

    def _inputs(self) -> list[Leaf]:
        return [leaf for leaf in self.trace.leaves if leaf.role == "input" and leaf.storage >= 0 and not leaf.skipped]

    def masks(self, shapes: Sequence[tuple[int, ...]], axes: Sequence[Axis]) -> Iterator[Mask]:
        """Those that hold zeros and ones, both of them; each content once."""
        events, seen = [], set()
        executor = for_framework(self.trace.framework).executor(self.trace)
        for event, leaf in self.possible(shapes, axes):
            if leaf is not None:
                found = executor.payload(executor.leaf_value(leaf))
                if _is_mask(found):
                    seen.add(_truth(found).tobytes())
                    yield Mask(leaf.name, _truth(found), None)
            elif event is not None:
                events.append(event)
        wanted = {event.site.at(""): event for event in events}
        contents: list[tuple[Event, Payload]] = []

        def look(executor: Executor, call: Call) -> None:
            event = wanted.get(call.site)
            if event is not None:
                contents.append((event, executor.payload(executor.read(event))))

        if wanted:
            self._plain = self._outputs(look, {})
        for event, payload in contents:
            if _is_mask(payload) and _truth(payload).tobytes() not in seen:
                seen.add(_truth(payload).tobytes())
                yield Mask(str(event.site.at("")).removeprefix(":"), _truth(payload), event)

    def hides(self, mask: Mask, shown: bool) -> bool | None:
        """Whether the rows where a mask is not ``shown`` influence no other row, because of the mask; None: no such rows."""
        keep = mask.values == shown
        changed = self._changed(keep, *self._with_other_rows(keep))
        if changed is None:
            return None
        if (changed & keep).any() or not (changed & ~keep).any():
            return False
        flipped = np.zeros_like(keep)
        first = (~keep).argmax(axis=1)
        there = np.arange(len(keep)), first
        flipped[there] = ~keep[there]
        changed = self._changed(keep, *self._with_mask(mask, flipped))
        return changed is not None and bool((changed & ~flipped).any())

    def _changed(self, keep: Array, watch: Watch | None, restore: Mapping[str, Value]) -> Array | None:
        """Rows of the outputs in which a bit changes under a change; None: no output has such rows."""
        if self._plain is None:
            self._plain = self._outputs(None, {})
        found = None
        for slot, payload in self._outputs(watch, restore).items():
            before = self._plain[slot]
            lead = fitted(keep, payload.bits.shape)
            if lead is None or is_integer(payload.dtype) or before.bits.shape != payload.bits.shape:
                continue
            unequal = _unsigned(before.bits) != _unsigned(payload.bits)
            one = unequal.reshape(keep.size, -1).any(axis=1).reshape(keep.shape)
            found = one if found is None else found | one
        return found

    def _with_other_rows(self, keep: Array) -> tuple[Watch | None, Mapping[str, Value]]:
        """Other values in the rows that are not kept, where floating rows first appear."""
        executor = for_framework(self.trace.framework).executor(self.trace)
        restore = {}
        for leaf in self._inputs():
            if _has_rows(leaf.spec, keep):
                payload = executor.payload(executor.leaf_value(leaf))
                restore[leaf.name] = executor.adopt_foreign(_other_rows(payload, keep))

        def change(executor: Executor, call: Call) -> None:
            if call.kind != "compute" or any(_has_rows(event.spec, keep) for event in call.reads):
                return
            for event in call.writes:
                if event.storage >= 0 and event.skipped != "view" and _has_rows(event.spec, keep):
                    payload = _other_rows(executor.payload(executor.read(event)), keep)
                    if not executor.overwrite(event, executor.adopt_foreign(payload)):
                        raise WhydiffError("A value cannot be exchanged.", where=str(event.site))

        return change, restore

    def _with_mask(self, mask: Mask, flipped: Array) -> tuple[Watch | None, Mapping[str, Value]]:
        executor = for_framework(self.trace.framework).executor(self.trace)

        def turned(payload: Payload) -> Payload:
            one = payload.bits.reshape(-1)[np.flatnonzero(_truth(payload).reshape(-1))[0]]
            zero = payload.bits.reshape(-1)[np.flatnonzero(~_truth(payload).reshape(-1))[0]]
            return Payload(np.where(_truth(payload) ^ flipped, one, zero).astype(payload.bits.dtype), payload.dtype)

        if mask.event is None:
            leaf = next(leaf for leaf in self.trace.leaves if leaf.name == mask.name)
            other = executor.adopt_foreign(turned(executor.payload(executor.leaf_value(leaf))))
            return None, {leaf.name: other}
        event = mask.event

        def change(executor: Executor, call: Call) -> None:
            if call.site == event.site.at(""):
                executor.overwrite(event, executor.adopt_foreign(turned(executor.payload(executor.read(event)))))

        return change, {}

    def _outputs(self, watch: Watch | None, restore: Mapping[str, Value]) -> Outputs:
        executor = for_framework(self.trace.framework).executor(self.trace, restore=restore)
        return replay(executor, watch=watch).outputs


def _is_mask(payload: Payload) -> bool:
    found = values(payload.bits, payload.dtype)
    return bool(np.isin(found, (0, 1)).all() and (found == 0).any() and (found == 1).any())


def _has_rows(spec: Any, keep: Array) -> bool:
    if is_integer(spec.dtype) or spec.numel <= keep.size:
        return False
    return fitted(keep, spec.shape) is not None


def _other_rows(payload: Payload, keep: Array) -> Payload:
    """Kept rows' values, with the other sign, in the rows that are not kept."""
    lead = fitted(keep, payload.bits.shape)
    assert lead is not None
    bits = payload.bits.copy().reshape(keep.size, -1)
    kept, left = np.flatnonzero(keep), np.flatnonzero(~keep)
    unsigned = _unsigned(bits)
    sign = unsigned.dtype.type(1 << (8 * unsigned.dtype.itemsize - 1))
    unsigned[left] = unsigned[np.resize(kept, left.size)] ^ sign
    return Payload(unsigned.view(payload.bits.dtype).reshape(payload.bits.shape), payload.dtype)


def _unsigned(bits: Array) -> Array:
    if bits.dtype.kind == "c":
        bits = bits.view(bits.real.dtype)
    return np.ascontiguousarray(bits).view(f"u{bits.dtype.itemsize}")


# --------------------------------------------------------------------------- differences that reach nothing


def without_influence(
    reference: Trace, candidate: Trace, alignment: Alignment, local: Localization, progress: Progress | None = None
) -> str:
    """Why origins do not matter although they differ, as a sentence; empty if they may.

    Asked only where every output is a floating tensor and what is compared of it agrees bit for bit. In the first
    floating tensors that differ, whole rows must differ; other values are put there, and no bit of the outputs may
    change.
    """
    floats = all(not is_integer(ours.dtype) for _, ours, _ in local.returned)
    kinds = {origin.kind for origin in local.origins}
    if not local.origins or not local.returned or not floats or kinds & {"state", "implementation"}:
        return ""
    if any(comparison.status != "agrees" for _, comparison in local.outputs):
        return ""
    try:
        return _silent(reference, candidate, alignment, local, progress)
    except WhydiffError:
        return ""  # it cannot be told: the origins stand


def _returned_alike(step: Lockstep, look: Look, slot: Slot, rows: Mapping[Slot, Rows]) -> bool:
    if look.agrees is not False or slot not in rows:
        return look.agrees is True
    one = rows[slot]
    payloads = step.reference.payload(look.reference_value), step.candidate.payload(look.candidate_value)
    return compare_payloads(*(one.of(payload) for payload in payloads)).status == "agrees"


def _silent(
    reference: Trace, candidate: Trace, alignment: Alignment, local: Localization, progress: Progress | None
) -> str:
    executors = [for_framework(trace.framework).executor(trace) for trace in (reference, candidate)]
    step = Lockstep(executors[0], executors[1], alignment, local.axes)
    changed: list[str] = []
    for call_r, call_c in step.walk(progress, "put other values where they differ"):
        reads = [look for look in step.looks(call_r, call_c, "reads") if not is_integer(look.reference.spec.dtype)]
        if call_r.kind == "return":
            if not all(_returned_alike(step, look, step.slot(call_r, look.reference), local.rows) for look in reads):
                return ""
            continue
        step.execute(call_r, call_c)
        if any(look.agrees is False for look in reads):
            continue
        for look in step.looks(call_r, call_c, "writes"):
            if look.agrees is not False or is_integer(look.reference.spec.dtype) or look.map is not None:
                continue
            ours, theirs = executors[0].payload(look.reference_value), executors[1].payload(look.candidate_value)
            if ours.bits.shape != theirs.bits.shape or ours.bits.ndim < 2:
                return ""
            unequal = _unsigned(ours.bits) != _unsigned(theirs.bits)
            rows = unequal.reshape(*ours.bits.shape[:-1], -1).any(axis=-1)
            whole = unequal.reshape(*ours.bits.shape[:-1], -1)[rows].mean()
            if rows.all() or whole < WHOLE_ROW:  # single numbers, not rows
                return ""
            other = executors[1].adopt_foreign(_other_rows(theirs, ~rows))
            if not executors[1].overwrite(look.candidate, other):
                return ""
            site = str(look.reference.site.at("")).removeprefix(":")
            changed.append(f"{int(rows.sum())} of {rows.size} rows of {site}")
    if not changed:
        return ""
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more} differ and reach no output: with other values in them no bit of the outputs changes"
