"""What a capture met and did not record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HoleKind = Literal[
    "opaque",
    "fake",
    "compiled",
    "higher-order",
    "tracing",
    "thread",
    "unreadable",
    "left out",
    "failed",
    "ended",
    "outside",
]
LOSING: frozenset[HoleKind] = frozenset({"tracing", "thread", "failed", "ended"})
"""Holes behind which numbers went by that nobody saw: with one of them a trace is not complete."""

OUTSIDE = "outside_write"
"""Op of a call that stands for what no op wrote into memory (numpy did, or a library that has the address): a copy."""


@dataclass(frozen=True, slots=True)
class Hole:
    """Something that a capture met and did not record.

    Attributes:
        kind: ``opaque`` (a value without plain storage: a wrapper of a functional transform, a tensor subclass, a
            sparse, nested or quantised tensor), ``fake`` (a tensor without numbers), ``compiled``, ``higher-order`` (it
            ran as one: what it took and gave was recorded), ``tracing`` (ops that ran while the program was being
            traced), ``thread`` (what another thread ran), ``unreadable`` (an attribute of the program that raised when
            it was read), ``left out`` (full tensors beyond the budget), ``failed`` (whydiff raised), ``ended`` (nothing
            more could be written), ``outside`` (reads of memory on loan that was not looked at then, and had changed when
            it was looked at next).
        why: in words.
        where: the first place; empty if it has none.
        count: how often.
    """

    kind: HoleKind
    why: str
    where: str = ""
    count: int = 1
