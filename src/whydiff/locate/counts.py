"""How a walk counts what could not be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from whydiff.pair.lockstep import Lockstep
from whydiff.records import Count


def replay_counts(step: Lockstep) -> tuple[Count, ...]:
    """Calls that could not be executed, or that gave other bits than when they were recorded."""
    counts = [replace(one, code="not replayed") for one in counted(step.failed, "calls not replayed")]
    for side, sites in step.unfaithful.items():
        if sites:
            counts.append(
                Count(
                    what="calls replayed with other bits",
                    reason=f"{side}: differs from its recorded fingerprint",
                    count=len(sites),
                    examples=tuple(sites[:3]),
                )
            )
    if step.surplus:
        counts.append(surplus_of(step.surplus))
    if step.unread:
        counts.append(
            Count(
                what="values",
                reason="further outputs of an op that nothing reads",
                count=len(step.unread),
                examples=tuple(sorted(step.unread)[:3]),
            )
        )
    if step.unjudged:
        counts.append(
            Count(
                what="ops not judged",
                reason="executed alone, here, they agree; what the candidate's run would have made of the "
                "reference's values is unknown",
                count=len(step.unjudged),
                examples=tuple(step.unjudged[:3]),
            )
        )
    return (*counts, *_sliced(step))


def surplus_of(left_over: Mapping[str, int]) -> Count:
    """Values that one call of a pair has and the other has not (site → how many)."""
    why = "paired calls read, write or return more of them on one side"
    return Count(what="values", reason=why, count=sum(left_over.values()), examples=tuple(list(left_over)[:3]))


def _sliced(step: Lockstep) -> list[Count]:
    """Elements outside the counterpart, and maps that only the values could settle."""
    counts = []
    for side in ("candidate", "reference"):
        outside = [(site, one) for site, one, _ in step.sliced if one.whole == side]
        if outside:
            sizes = ", ".join(f"{axis.reference} → {axis.candidate}" for axis in step.axes)
            counts.append(
                Count(
                    what="elements left out",
                    reason=f"only the {side} has these rows or positions (sizes {sizes}); "
                    f"{len(outside)} values were compared on their counterpart",
                    count=sum(one.left_out for _, one in outside),
                    examples=tuple(f"{site} {one}" for site, one in outside[:3]),
                )
            )
    closest = [f"{site} {one}" for site, one, how in step.sliced if how == "closest"]
    if closest:
        counts.append(
            Count(
                what="slice maps",
                reason="several fitted the shapes and none the bits: the closest was taken",
                count=len(closest),
                examples=tuple(closest[:3]),
            )
        )
    return counts


def counted(reasons: Mapping[str, Sequence[str]], what: str) -> tuple[Count, ...]:
    """One count per reason, with the first three sites."""
    return tuple(
        Count(what=what, reason=reason, count=len(sites), examples=tuple(site for site in sites[:3] if site))
        for reason, sites in reasons.items()
    )
