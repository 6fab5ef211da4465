"""Calls and values of a trace by their site as text: what interventions are aimed at."""

from __future__ import annotations

from collections.abc import Mapping

from whydiff.errors import ReplayError
from whydiff.records import Call, Event, Trace


def sites_of(trace: Trace) -> dict[str, Call]:
    """Every call but views, by its site as text."""
    return {str(call.site): call for call in trace.calls if call.kind != "view"}


def call_at(by_site: Mapping[str, Call], target: str) -> Call:
    """The call at a site.

    Raises:
        ReplayError: there is none.
    """
    if target not in by_site:
        raise ReplayError("There is no such call in the trace.", where=target)
    return by_site[target]


def value_at(by_site: Mapping[str, Call], target: str, part: str) -> tuple[Call, int]:
    """The call that reads or writes (``part``) a value, and its position there.

    Raises:
        ReplayError: there is none.
    """
    for call in by_site.values():
        if target.startswith(f"{call.site.scope}:{call.site.op}#{call.site.occurrence}"):
            for position, event in enumerate(getattr(call, part)):
                if str(event.site) == target:
                    return call, position
    raise ReplayError("There is no such value in the trace.", where=target)


def read_at(by_site: Mapping[str, Call], target: str) -> tuple[Call, int]:
    """The call that reads a value, and which of its reads it is."""
    return value_at(by_site, target, "reads")


def written_at(by_site: Mapping[str, Call], target: str) -> Event:
    """A written value."""
    call, slot = value_at(by_site, target, "writes")
    return call.writes[slot]
