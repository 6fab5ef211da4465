"""In which order each class of sizes adds up: the accumulation tree of one op of every class, where it can be revealed.

Only origins are asked, only for the smallest cell of a class, and only for sums of a bearable length, so that the
work is bounded. Method and proof: `whydiff.explain.reduction`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from whydiff.capturing.adapters import for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.reduction import prove
from whydiff.locate.origins import find_origins
from whydiff.pair.align import align
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Call
from whydiff.studies.sweep.findings import Axis, Cell, Classes, Order, Size
from whydiff.studies.sweep.grouping import along, classes, elsewhere, pattern
from whydiff.studies.sweep.one_cell import Job, axes_for, flagged, live, recorded_reference

MOST_CELLS = 8
"""Cells that are run once more; each costs about as much as the cell did, and a second or two for each tree."""
MOST_TERMS = 8192
"""Longer sums are not revealed here: the work grows with the square of their length (`whydiff.explain.reduction.reveal`)."""

Revealed = Mapping[str, tuple[str, str, str]]
"""Pattern of an op → the order at the reference size and here, and why that is no proof (empty if it is one)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One cell to look at again.

    Attributes:
        job: the cell.
        patterns: of the ops whose order is asked for.
    """

    job: Job
    patterns: tuple[str, ...]


def asked(found: Sequence[Classes], cells: Sequence[Cell], jobs: Sequence[Job], axis: Axis) -> list[Asked]:
    """The smallest cell of every class of sizes of every op that varies, at most `MOST_CELLS`."""
    by_size = {job.size: job for job in jobs}
    patterns: dict[Size, dict[str, None]] = {}
    for one in found:
        for cell in _examples(one, cells, axis).values():
            if cell.size in patterns or len(patterns) < MOST_CELLS:
                patterns.setdefault(cell.size, {})[one.what] = None
    return [Asked(by_size[size], tuple(names)) for size, names in patterns.items()]


def reveal_orders(wanted: Asked) -> tuple[Size, Revealed]:
    """Run a cell again and reveal how its ops, and the reference's, add up."""
    job = wanted.job
    revealed: dict[str, tuple[str, str, str]] = {}
    adapter, run = live(job, job.size)
    with flagged(job, adapter):
        try:
            reference, trace = recorded_reference(job), run.capture()
            alignment = align(reference, trace)

            def look(step: Lockstep, ours: Call, theirs: Call, at: Look) -> None:
                name = pattern(str(at.reference.site))
                if name in wanted.patterns and name not in revealed:
                    revealed[name] = _orders(step, ours, theirs)

            executors = adapter.executor(reference), adapter.executor(trace)
            find_origins(*executors, alignment, axes=axes_for(job, reference, trace, alignment), on_origin=look)
        except WhydiffError as error:
            why = f"the cell could not be run again: {' '.join(str(error).split())}"
            revealed |= {name: ("", "", why) for name in wanted.patterns if name not in revealed}
    return job.size, revealed


def with_orders(
    found: Sequence[Classes], cells: Sequence[Cell], axis: Axis, revealed: Mapping[Size, Revealed]
) -> tuple[Classes, ...]:
    """Classes with the order of each of their groups, as far as they were revealed."""
    result = []
    for one in found:
        orders: dict[tuple[str, ...], Order] = {}
        for group, cell in _examples(one, cells, axis).items():
            ours, theirs, why = revealed.get(cell.size, {}).get(one.what, ("", "", "not asked"))
            orders[group] = Order(theirs, not why, why)
            known = orders.get(one.groups[0])
            if ours and (known is None or not known.proved):
                orders[one.groups[0]] = Order(ours, not why, why)
        if any(order.text for order in orders.values()):
            one = replace(one, orders=tuple(orders.get(group, Order("", False, "not asked")) for group in one.groups))
        elif orders:
            one = replace(one, no_orders=next(iter(orders.values())).why)
        result.append(one)
    return tuple(result)


def _examples(one: Classes, cells: Sequence[Cell], axis: Axis) -> dict[tuple[str, ...], Cell]:
    """Group (but the reference's) → its smallest cell, in the smallest setting that groups so."""
    if one.of_outputs or len(one.groups) < 2:
        return {}
    settings: dict[object, list[Cell]] = {}
    for cell in cells:
        if cell.status != "failed":
            settings.setdefault(elsewhere(cell.size, axis), []).append(cell)
    for members in sorted(settings.values(), key=lambda some: min(cell.size for cell in some)):
        if any((c.what, c.groups) == (one.what, one.groups) for c in classes(members, axis)):
            return {
                group: next(c for c in sorted(members, key=lambda c: c.size) if along(c.size, axis) in group)
                for group in one.groups[1:]
            }
    return {}


def _orders(step: Lockstep, ours: Call, theirs: Call) -> tuple[str, str, str]:
    sides = [
        (executor, call, [executor.read(event) for event in call.reads])
        for executor, call in ((step.reference, ours), (step.candidate, theirs))
    ]
    try:
        total = None if ours.mutates else for_framework(step.reference.framework).recorded_sum(*sides[0])
        if total is None:
            return "", "", "no sum whose terms can be chosen"
        if total.leaves > MOST_TERMS:
            return "", "", f"it adds {total.leaves} terms; up to {MOST_TERMS} are tried here"
        proof = prove(*sides[0], *sides[1])
    except (WhydiffError, RuntimeError) as error:
        return "", "", f"not revealed: {' '.join(str(error).split())[:200]}"
    if proof is None:
        return "", "", "the two sizes do not add the same terms"
    if not proof.revealed:
        return "", "", proof.reason
    return *proof.orders, proof.reason
