"""What a capture met and did not record, counted while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from whydiff.records import LOSING, Hole, HoleKind

MOST = 100
"""Different reasons of one kind that are told apart; what comes after them is counted together."""


class Holes:
    """Counts holes by kind and reason; the first place of each is kept. Every thread of the program may add some."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a finalizer may run ops, and count, while one is added
        self._found: dict[tuple[HoleKind, str], Hole] = {}

    def add(self, kind: HoleKind, why: str, where: str = "", count: int = 1) -> None:
        """Count one more (or several)."""
        with self._lock:
            if (kind, why) not in self._found and sum(known == kind for known, _ in self._found) >= MOST:
                why, where = "other reasons", ""
            known = self._found.get((kind, why))
            self._found[kind, why] = (
                Hole(kind=kind, why=why, where=where, count=count)
                if known is None
                else replace(known, count=known.count + count)
            )

    def all(self) -> tuple[Hole, ...]:
        """What was counted so far."""
        with self._lock:
            return tuple(self._found.values())


def lost(holes: Sequence[Hole]) -> str:
    """Holes behind which numbers went by that nobody saw, in one sentence; empty: there are none."""
    found = [hole for hole in holes if hole.kind in LOSING]
    return "not seen: " + "; ".join(f"{hole.count} × {hole.kind}: {hole.why}" for hole in found[:3]) if found else ""
