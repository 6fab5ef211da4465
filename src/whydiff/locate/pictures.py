"""Pictures of the first places, taken while the resynchronised walk holds both tensors."""

from __future__ import annotations

from whydiff.errors import PayloadError, ReplayError, attempted
from whydiff.numbers.picture import picture
from whydiff.pair.lockstep import Lockstep, Look, payloads_of
from whydiff.records import Call, Picture

MOST = 8
"""Places of which a picture is taken."""


class Pictures:
    """Takes a picture of every origin that a walk reports, until there are enough."""

    def __init__(self) -> None:
        self.taken: list[Picture] = []

    def __call__(self, step: Lockstep, reference: Call, candidate: Call, look: Look) -> None:
        """One origin."""
        if len(self.taken) == MOST or look.map is not None:
            return
        try:
            both = payloads_of(step, look)
        except (PayloadError, ReplayError):
            return  # nothing to look at: the origin itself is reported all the same
        found = attempted("the picture of a place", lambda: picture(str(look.reference.site), *both), None)
        if found is not None:
            self.taken.append(found)
