"""Which origins are a cause's own: those that read what it changes, or where it changes something."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whydiff.records import Cause, Intervention, Origin, Site


class Claims:
    """What a cause changes, looked up once for all origins.

    Args:
        interventions: of the cause.
        also: further targets.
    """

    def __init__(self, interventions: Iterable[Intervention], also: Iterable[str] = ()) -> None:
        self._targets = {*(item.target for item in interventions), *also}
        self._above = {target[:at] for target in self._targets for at, mark in enumerate(target) if mark == "."}

    @classmethod
    def of(cls, cause: Cause) -> Claims:
        """What a cause changes, and its site."""
        return cls(cause.interventions, [cause.site])

    def holds(self, origin: Origin, sites: Sequence[Site] = ()) -> bool:
        """Whether an origin reads a target, or a target is one of its sites (both sides' by default), or inside one."""
        here = {str(site) for o in sites or (origin.site, origin.candidate_site) for site in (o, o.at(""))}
        return not (self._targets.isdisjoint({*origin.leaves, *here}) and self._above.isdisjoint(here))
