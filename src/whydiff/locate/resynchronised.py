"""What a resynchronised walk gives, and who may watch it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from whydiff.capturing.adapters import Value
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.pair.slices import Axis
from whydiff.records import Call, Count, Origin

OnOrigin = Callable[[Lockstep, Call, Call, Look], None]
"""Told of every paired call that is an origin, before it is resynchronised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resynchronised:
    """What the resynchronised walk found.

    Attributes:
        origins: in execution order.
        accounted: True if after resynchronising no output bit differs; None if unknown.
        propagated: how many pairs differ without being origins, as they could not be resynchronised.
        counts: calls that could not be replayed or compared, with reasons.
        axes: what the runs have different sizes of.
    """

    origins: tuple[Origin, ...] = ()
    accounted: bool | None = None
    propagated: int = 0
    counts: tuple[Count, ...] = ()
    axes: tuple[Axis, ...] = ()


class Watcher:
    """Looks at a resynchronised walk while it goes on; this one at nothing.

    Each is called with the two calls of a pair; a call's values are what both sides have at that moment.
    """

    done: bool = False
    """Whether it has seen enough: when it has, the walk ends."""

    def entering(self, reference: Call, candidate: Call) -> None:
        """Before what they read is resynchronised."""

    def executing(self, reference: Call, candidate: Call) -> None:
        """What they read is resynchronised where it can be; they are executed next."""

    def executed(self, reference: Call, candidate: Call, looks: Sequence[Look], alone: list[Value] | None) -> None:
        """They are executed, and what they wrote (``looks``) is not resynchronised.

        ``alone``: what the candidate's op gives on the reference's inputs, where some input still differs.
        """

    def resynchronised(self, reference: Call, candidate: Call) -> None:
        """What they wrote is resynchronised where it can be."""

    def returned(self, reference: Call, candidate: Call) -> None:
        """They are what both runs return."""
