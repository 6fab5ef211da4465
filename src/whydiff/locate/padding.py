"""Rows that have no counterpart because they are padding: by experiment.

Names prove nothing. A tensor of zeros and ones that both runs read or compute with the same bits *hides* rows if

1. with other values in those rows, they change in the outputs, and no bit of any other row does, in both runs; and
2. with the first of them shown (its entry flipped), some row besides it does change: so the entries decide what
   other rows see, and are no flags of single rows (token types, labels).

Both are asked of a replay first, then of the live programs (`hides_live`), beyond rounding instead of to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Progress, Run, executor_of, for_framework
from whydiff.errors import UsageError, WhydiffError
from whydiff.locate.growth import Plain
from whydiff.locate.masks import Mask, Side, is_mask, truth
from whydiff.locate.rows import Array, Rows, fitted, other_rows, within
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.tolerance import CANCELLED_SHARE, UNIT_ROUNDOFF
from whydiff.pair.slices import Axis, counterparts
from whydiff.records import Comparison, Count, Intervention, Payload, Slot, Trace

_MOST_MASKS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Padded:
    """The outputs without the rows that are padding.

    Attributes:
        outputs: difference per output.
        returned: (output, reference's payload, candidate's payload, which has the reference's padding).
        rows: by output, which of its rows are compared; no entry: all.
        counts: what was left out.
        notes: sentences for the report.
    """

    outputs: tuple[tuple[Slot, Comparison], ...]
    returned: tuple[tuple[Slot, Payload, Payload], ...]
    rows: Mapping[Slot, Rows] = field(default_factory=dict)
    counts: tuple[Count, ...] = ()
    notes: tuple[str, ...] = ()


Runs = tuple[Run | None, Run | None]
ON_DISK: Runs = (None, None)


def leave_out(
    reference: Trace,
    candidate: Trace,
    plain: Plain,
    rows: Any = None,
    progress: Progress | None = None,
    runs: Runs = ON_DISK,
) -> Padded:
    """Take padded rows out of the outputs' comparison.

    Args:
        reference, candidate: traces that can be replayed.
        plain: with the outputs as they are.
        rows: the caller's choice: the name of an input whose nonzero entries are compared, or such a mask; None:
            found by experiment.
        progress: called with (stage, done, total).
        runs: live runs, None for a side that is a trace on disk.

    Raises:
        UsageError: ``rows`` names no input or fits no output.
    """
    if rows is not None:
        named = _named(reference, rows)
        chosen = [
            Rows(slot, keep, "they were named as rows not to compare", asked=True)
            for slot, ours, _ in plain.returned
            if (keep := fitted(named, ours.bits.shape)) is not None
        ]
        if not chosen:
            raise UsageError(
                "The mask of rows fits no output.",
                actual=f"shape {list(named.shape)}",
                expected=", ".join(f"{s}: {list(p.bits.shape)}" for s, p, _ in plain.returned),
            )
        return _without(plain, chosen)
    wanted = [slot for slot, comparison in plain.outputs if comparison.status == "differs"]
    if not wanted:
        return _all_rows(plain)
    try:
        return _found(reference, candidate, plain, progress, runs)
    except WhydiffError as error:
        return _all_rows(plain, (f"whether rows of the outputs are padding was not found out: {error.what}",))


def _found(reference: Trace, candidate: Trace, plain: Plain, progress: Progress | None, runs: Runs) -> Padded:
    shapes = [ours.bits.shape for _, ours, _ in plain.returned if not is_integer(ours.dtype)]
    sides = (Side(reference), Side(candidate))
    if not all(any(True for _ in side.possible(shapes, plain.axes)) for side in sides):
        return _all_rows(plain)
    if progress is not None:
        progress("look for padding", 0, 1)
    masks = [list(side.masks(shapes, plain.axes)) for side in sides]
    pairs = [(a, b, alike) for a in masks[0] for b in masks[1] if (alike := _alike(a, b, plain.axes)) is not None]
    why_not: list[str] = []
    for ours, theirs, cut in pairs[:_MOST_MASKS]:
        for shown in (True, False):
            keep = cut == shown
            if keep.all() or not keep.any():
                continue
            hidden = [side.hides(mask, shown) for side, mask in zip(sides, (ours, theirs), strict=True)]
            left = "no bit of any other row changes"
            if (
                not any(hidden)
                and None not in hidden
                and _hidden_live((reference, candidate), runs, (ours, theirs), shown)
            ):
                hidden, left = [True, True], "every other row changes by rounding at most"
            if all(hidden):
                why = (
                    f"{ours.name} hides them in both runs: with other values in them {left}, "
                    "and its entries decide what other rows see"
                )
                chosen = [
                    Rows(slot, at, why)
                    for slot, one, _ in plain.returned
                    if not is_integer(one.dtype) and (at := within(keep, one.bits.shape)) is not None
                ]
                finite = [one for one in chosen if _finite_alike(one, plain)]
                if finite:
                    return _without(plain, finite)
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
    return _all_rows(plain, tuple(why_not[:1]))


def _hidden_live(traces: tuple[Trace, Trace], runs: Runs, masks: tuple[Mask, Mask], shown: bool) -> bool:
    """Whether both live programs hide the rows; False for a trace on disk."""
    return all(
        run is not None and hides_live(trace, run, mask, shown)
        for trace, run, mask in zip(traces, runs, masks, strict=True)
    )


def _alike(ours: Mask, theirs: Mask, axes: tuple[Axis, ...]) -> Array | None:
    """What two masks say of the rows that both runs have, if they say the same."""
    one, other = counterparts(Payload(ours.values, "bool"), Payload(theirs.values, "bool"), axes)
    return one.bits if one.bits.shape == other.bits.shape and np.array_equal(one.bits, other.bits) else None


def _finite_alike(rows: Rows, plain: Plain) -> bool:
    """Whether NaN and infinity stand in the same places of both runs, also in rows that would be left out."""
    ours, theirs = next(
        (values(a.bits, a.dtype), values(b.bits, b.dtype)) for slot, a, b in plain.returned if slot == rows.slot
    )
    return ours.shape == theirs.shape and np.array_equal(np.isfinite(ours), np.isfinite(theirs))


def _all_rows(plain: Plain, notes: tuple[str, ...] = ()) -> Padded:
    return Padded(outputs=plain.outputs, returned=plain.returned, notes=notes)


def _without(plain: Plain, chosen: Sequence[Rows]) -> Padded:
    by_slot = {one.slot: one for one in chosen if one.left_out}
    returned, outputs = [], []
    for (slot, ours, theirs), (name, comparison) in zip(plain.returned, plain.outputs, strict=True):
        one = by_slot.get(slot)
        if one is not None and ours.bits.shape == theirs.bits.shape:
            comparison = compare_payloads(one.of(ours), one.of(theirs))
            theirs = one.covered(ours, theirs)
        returned.append((slot, ours, theirs))
        outputs.append((name, comparison))
    return Padded(
        outputs=tuple(outputs),
        returned=tuple(returned),
        rows=by_slot,
        counts=tuple(one.count() for one in by_slot.values()),
        notes=tuple(f"not compared: {one}" for one in by_slot.values()),
    )


def _named(reference: Trace, rows: Any) -> Array:
    if not isinstance(rows, str):
        return np.asarray(rows).astype(bool)
    leaf = next((leaf for leaf in reference.leaves if leaf.role == "input" and leaf.name == rows), None)
    if leaf is None:
        names = ", ".join(leaf.name for leaf in reference.leaves if leaf.role == "input")
        raise UsageError("There is no such input.", actual=rows, expected=f"a mask, or one of {names or 'no input'}")
    executor = executor_of(reference)
    return truth(executor.payload(executor.leaf_value(leaf)))


Outputs = Mapping[str, Payload]


def hides_live(trace: Trace, run: Run, mask: Mask, shown: bool) -> bool:
    """Whether the rows where an input is not ``shown`` change no other row beyond rounding, because of that input.

    By running the program again: a replay cannot say where numbers leave the program. How many tokens an expert gets is
    read by Python and decides the sizes of what follows; recorded sizes do not fit other tokens. The live program follows.
    Its kernels then work on other sizes too, so that other rows may change by rounding.

    Args:
        trace: of the run.
        run: it is run three times.
        mask: an input of zeros and ones.
        shown: what it holds for rows that take part.
    """
    keep = mask.values == shown
    if mask.event is not None or not run.supports(Intervention("restore-input", mask.name)):
        return False
    try:
        plain = _outputs(trace, run, {})
        others = _with_other_rows(trace, keep)
        if not others or _moved(plain, moved := _outputs(trace, run, others), keep):
            return False
        if not _moved(plain, moved, ~keep):
            return False
        flipped = np.zeros_like(keep)
        flipped[np.arange(len(keep)), (~keep).argmax(axis=1)] = True
        flipped &= ~keep
        return _moved(plain, _outputs(trace, run, _with_mask(trace, mask, flipped)), keep & ~flipped)
    except WhydiffError:  # it cannot run so: nothing is shown
        return False


def _outputs(trace: Trace, run: Run, inputs: Mapping[str, Payload]) -> Outputs:
    """What the run gives with other inputs."""
    adapter = for_framework(trace.framework)
    plain = adapter.executor(trace)
    given = {name: plain.adopt_foreign(payload) for name, payload in inputs.items()}
    donor = adapter.executor(trace, restore=given)
    found = run.plain([Intervention("restore-input", name) for name in given], donor)
    return {path: plain.payload(value) for path, value in found}


def _moved(before: Outputs, after: Outputs, rows: Array) -> bool:
    """Whether some of these rows of an output differ by more than rounding may make: half of the digits."""
    for path, payload in before.items():
        lead, other = within(rows, payload.bits.shape), after.get(path)
        if lead is None or is_integer(payload.dtype) or other is None or other.bits.shape != payload.bits.shape:
            continue
        apart = compare_payloads(*(Payload(np.ascontiguousarray(p.bits[lead]), p.dtype) for p in (payload, other)))
        far = apart.value("rel_l2")
        if far is not None and not far <= UNIT_ROUNDOFF[payload.dtype] ** CANCELLED_SHARE:
            return True
    return False


def _with_other_rows(trace: Trace, keep: Array) -> Mapping[str, Payload]:
    """Kept rows' values in the rows that are not kept, of every input that has these rows and is no mask."""
    executor = executor_of(trace)
    found: dict[str, Payload] = {}
    for leaf in trace.leaves:
        if leaf.role != "input" or leaf.storage < 0 or leaf.skipped or leaf.spec.shape[:2] != keep.shape:
            continue
        payload = executor.payload(executor.leaf_value(leaf))
        if not is_integer(payload.dtype):
            found[leaf.name] = other_rows(payload, keep)
        elif payload.bits.shape == keep.shape and not is_mask(payload):
            bits: Any = payload.bits.copy()
            bits[~keep] = np.resize(bits[keep], int((~keep).sum()))
            found[leaf.name] = Payload(bits, payload.dtype)
    return found


def _with_mask(trace: Trace, mask: Mask, flipped: Array) -> Mapping[str, Payload]:
    """The mask with some entries turned."""
    executor = executor_of(trace)
    leaf = next(leaf for leaf in trace.leaves if leaf.name == mask.name)
    payload = executor.payload(executor.leaf_value(leaf))
    there = truth(payload)
    one, zero = payload.bits[there].reshape(-1)[0], payload.bits[~there].reshape(-1)[0]
    return {mask.name: Payload(np.where(there ^ flipped, one, zero).astype(payload.bits.dtype), payload.dtype)}
