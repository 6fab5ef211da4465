"""Which values of ranks have a narrower dtype than the reference's."""

from __future__ import annotations

from collections.abc import Iterator

from whydiff.locate.ranked import Ranked, Start
from whydiff.numbers.tolerance import UNIT_ROUNDOFF


def narrower(ranked: Ranked) -> Iterator[str]:
    """What a rank holds, sends, or rounds to, in a narrower dtype than the reference."""
    for one in ranked.seen:
        for tie in one.writes:
            theirs = [event.spec.dtype for event in tie.shared.ranks.values()]
            if any(coarser(dtype, tie.shared.reference.spec.dtype) for dtype in theirs):
                yield f"hold {tie.shared.reference.site}"
    for start in ranked.shares:
        if start.exchange is not None and narrowed(start):
            yield f"send what {start.exchange.site} adds up"
    calls = ranked.teams.ranks[ranked.teams.lead].calls
    for call in (calls[index] for index in ranked.teams.alignment.unpaired_candidate):
        read = [event.spec.dtype for event in call.reads if event.spec.dtype in UNIT_ROUNDOFF]
        if read and any(all(coarser(write.spec.dtype, dtype) for dtype in read) for write in call.writes):
            yield f"round {call.site}"


def narrowed(start: Start) -> str:
    """The dtype in which the terms of a value are sent, if it is narrower than the value's; else empty."""
    wide_dtype = start.tie.shared.reference.spec.dtype
    sent = [event.spec.dtype for event in start.exchange.reads] if start.exchange is not None else []
    return next((dtype for dtype in sent if coarser(dtype, wide_dtype)), "")


def coarser(dtype: str, other: str) -> bool:
    """Whether one floating dtype rounds more than another one."""
    return dtype in UNIT_ROUNDOFF and UNIT_ROUNDOFF[dtype] > UNIT_ROUNDOFF.get(other, 1.0)
