"""What localizing found, and how it counts what could not be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from whydiff.locate.rows import Rows
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.slices import Axis
from whydiff.records import Comparison, Count, Growth, Origin, Payload, Slot


@dataclass(frozen=True, slots=True)
class Localization:
    """What one resynchronised and one plain walk found.

    Attributes:
        origins: in execution order.
        growth: plain difference at the last paired call of every scope, in execution order.
        outputs: plain difference of what the runs returned, per slot.
        returned: (slot, reference's payload, candidate's payload) of the outputs.
        accounted: True if after resynchronising at the origins no output bit differs; None if unknown.
        agreeing, propagated: how many pairs agree in the plain walk, and differ without being origins.
        counts: calls that could not be replayed or compared, with reasons.
        axes: what the runs have different sizes of; empty if nothing.
        rows: by output, which of its rows are compared; no entry: all.
        left_out: rows of outputs that only one run has, as sentences.
        silent: why the origins do not matter (no output depends on what differs there), as a sentence; else empty.
    """

    origins: tuple[Origin, ...]
    growth: tuple[Growth, ...]
    outputs: tuple[tuple[Slot, Comparison], ...]
    returned: tuple[tuple[Slot, Payload, Payload], ...]
    accounted: bool | None
    agreeing: int = 0
    propagated: int = 0
    counts: tuple[Count, ...] = ()
    axes: tuple[Axis, ...] = ()
    rows: Mapping[Slot, Rows] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    silent: str = ""


def replay_counts(step: Lockstep) -> tuple[Count, ...]:
    """Calls that could not be executed, or that gave other bits than when they were recorded."""
    counts = list(counted(step.failed, "calls not replayed"))
    for side, sites in step.unfaithful.items():
        if sites:
            counts.append(
                Count(
                    "calls replayed with other bits",
                    f"{side}: differs from its recorded fingerprint",
                    len(sites),
                    tuple(sites[:3]),
                )
            )
    if step.surplus:
        counts.append(surplus_of(step.surplus))
    if step.unread:
        counts.append(
            Count(
                "values",
                "further outputs of an op that nothing reads",
                len(step.unread),
                tuple(sorted(step.unread)[:3]),
            )
        )
    if step.fused:
        counts.append(
            Count(
                "ops not judged",
                "they agree executed alone; what the compiled programs make of them "
                "after another value was put in is unknown",
                len(step.fused),
                tuple(step.fused[:3]),
            )
        )
    return (*counts, *_sliced(step))


def surplus_of(left_over: Mapping[str, int]) -> Count:
    """Values that one call of a pair has and the other has not (site → how many)."""
    why = "paired calls read, write or return more of them on one side"
    return Count("values", why, sum(left_over.values()), tuple(list(left_over)[:3]))


def _sliced(step: Lockstep) -> list[Count]:
    """Elements outside the counterpart, and maps that only the values could settle."""
    counts = []
    for side in ("candidate", "reference"):
        outside = [(site, one) for site, one, _ in step.sliced if one.whole == side]
        if outside:
            sizes = ", ".join(f"{axis.reference} → {axis.candidate}" for axis in step.axes)
            counts.append(
                Count(
                    "elements left out",
                    f"only the {side} has these rows or positions (sizes {sizes}); "
                    f"{len(outside)} values were compared on their counterpart",
                    sum(one.left_out for _, one in outside),
                    tuple(f"{site} {one}" for site, one in outside[:3]),
                )
            )
    closest = [f"{site} {one}" for site, one, how in step.sliced if how == "closest"]
    if closest:
        counts.append(
            Count(
                "slice maps",
                "several fitted the shapes and none the bits: the closest was taken",
                len(closest),
                tuple(closest[:3]),
            )
        )
    return counts


def comparison_of(step: Lockstep, look: Look) -> Comparison:
    """Both values of a look, measured; what was known to agree without reading it has no measurements."""
    if look.reference_value is None or look.candidate_value is None:
        return Comparison("agrees" if look.agrees else "not_compared", look.why)
    return compare_payloads(step.reference.payload(look.reference_value), step.candidate.payload(look.candidate_value))


def payloads_of(step: Lockstep, look: Look) -> tuple[Payload, Payload]:
    """Host copies of both values of a look."""
    value_r, value_c = look.reference_value, look.candidate_value
    if value_r is None or value_c is None:
        value_r, value_c = step.reference.read(look.reference), step.candidate.read(look.candidate)
    return step.reference.payload(value_r), step.candidate.payload(value_c)


def counted(reasons: Mapping[str, Sequence[str]], what: str) -> tuple[Count, ...]:
    """One count per reason, with the first three sites."""
    return tuple(
        Count(what, reason, len(sites), tuple(site for site in sites[:3] if site)) for reason, sites in reasons.items()
    )
