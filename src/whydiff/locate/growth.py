"""How the plain, not resynchronised difference grows with the depth, and what becomes of the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.capturing.adapters import Executor, Progress
from whydiff.locate.counts import counted, replay_counts
from whydiff.pair.lockstep import Lockstep, comparison_of, payloads_of
from whydiff.pair.slices import Axis, SliceMap
from whydiff.records import Alignment, Call, Comparison, Count, Growth, Payload, Site, Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """What the plain walk found.

    Attributes:
        growth: difference at the last paired call of every scope, in execution order.
        outputs: difference of what the runs returned, per output.
        returned: (output, reference's payload, candidate's payload), cut to their counterparts.
        agreeing, differing: how many pairs of calls do.
        counts: calls that could not be replayed or compared, with reasons.
        left_out: rows of outputs that only one run has, as sentences.
        axes: what the runs have different sizes of.
        unfaithful: how many calls gave other bits than were recorded.
    """

    growth: tuple[Growth, ...] = ()
    outputs: tuple[tuple[Slot, Comparison], ...] = ()
    returned: tuple[tuple[Slot, Payload, Payload], ...] = ()
    agreeing: int = 0
    differing: int = 0
    counts: tuple[Count, ...] = ()
    left_out: tuple[str, ...] = ()
    axes: tuple[Axis, ...] = ()
    unfaithful: int = 0


def measure_growth(
    reference: Executor,
    candidate: Executor,
    alignment: Alignment,
    progress: Progress | None = None,
    *,
    axes: tuple[Axis, ...] = (),
) -> Plain:
    """Plain walk: growth, outputs and faithfulness of the replay. Executors are used up."""
    step = Lockstep(reference, candidate, alignment, axes)
    last = _last_of_scope(reference.trace.calls, alignment)
    growth: list[Growth] = []
    outputs: list[tuple[Slot, Comparison]] = []
    returned: list[tuple[Slot, Payload, Payload]] = []
    agreeing = differing = 0
    not_compared: dict[str, list[str]] = {}
    left_out: list[tuple[str, Count]] = []
    for call_r, call_c in step.walk(progress, "replay both runs"):
        step.execute(call_r, call_c, check=True)
        slot = "reads" if call_r.kind == "return" else "writes"
        looks = step.looks(call_r, call_c, slot)
        for look in looks:
            if look.agrees is None:
                not_compared.setdefault(look.why, []).append(str(look.reference.site))
            elif call_r.kind == "return":
                name = step.slot(call_r, look.reference)
                pair = payloads_of(step, look)
                outputs.append((name, comparison_of(step, look)))
                if look.map is not None:
                    left_out.append(_only_on_one_side(name, look.map, axes))
                returned.append((name, *pair))
            if look.agrees:
                step.note_equal(look)
        agreeing += all(look.agrees for look in looks)
        differing += any(look.agrees is False for look in looks)
        if call_r.index in last and looks and looks[0].agrees is not None:
            growth.append(Growth(looks[0].reference.site, comparison_of(step, looks[0])))
    return Plain(
        growth=tuple(growth),
        outputs=tuple(outputs),
        returned=tuple(returned),
        agreeing=agreeing,
        differing=differing,
        counts=(*counted(not_compared, "values"), *replay_counts(step), *(count for _, count in left_out)),
        left_out=tuple(text for text, _ in left_out),
        axes=axes,
        unfaithful=sum(map(len, step.unfaithful.values())),
    )


def _only_on_one_side(slot: Slot, found: SliceMap, axes: tuple[Axis, ...]) -> tuple[str, Count]:
    """What of an output has no counterpart because only one run has these rows, as a sentence and a count."""
    rows, kept = (math.prod(shape[:-1]) for shape in (found.large, found.small))
    sizes = ", ".join(f"{axis.name or 'size'} {axis.reference} → {axis.candidate}" for axis in axes)
    why = f"only the {found.whole} has them ({sizes}; compared is {found})"
    text = f"{rows - kept} of {rows} rows of {slot} have no counterpart, because {why}"
    return text, Count("rows of outputs", f"{slot}: {rows - kept} of {rows}: {why}", rows - kept, code="part")


def _last_of_scope(calls: Sequence[Call], alignment: Alignment) -> set[int]:
    last: dict[tuple[Any, ...], int] = {}
    for pair in alignment.pairs:
        site: Site = calls[pair.reference].site
        if calls[pair.reference].kind == "compute":
            last[site.scope, site.phase, site.step] = pair.reference
    return set(last.values())
