"""The parts of several ranks as one side of a comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from whydiff.capturing.limits import Limits, Watched
from whydiff.capturing.ranks import MOST, parts
from whydiff.capturing.store.layout import MANIFEST
from whydiff.capturing.store.reader import DiskTrace, open_ranks, open_trace
from whydiff.capturing.store.remote import is_url

Side = TypeVar("Side")


class RankedTrace:
    """What several ranks wrote, each alone.

    Attributes:
        parts: rank → its trace.
        unreadable: rank → why its part cannot be opened.
    """

    def __init__(self, root: Path, found: dict[int, DiskTrace], unreadable: dict[int, str]) -> None:
        self.parts, self.unreadable = found, unreadable
        self.source = str(root)

    @property
    def lead(self) -> DiskTrace:
        """The lowest rank's trace."""
        return self.parts[min(self.parts)]

    @property
    def missing(self) -> tuple[int, ...]:
        """Ranks that took part and of which nothing can be opened."""
        size = self.lead.captured.get("ranks")
        every = range(size if isinstance(size, int) and 0 < size < MOST else 0)
        return tuple(sorted({*every, *self.unreadable} - {*self.parts}))

    @property
    def framework(self) -> str:
        """Of every part."""
        return self.lead.framework

    @property
    def calls(self) -> tuple[Any, ...]:
        """Of every part, one after the other: how many there are is asked."""
        return tuple(call for trace in self.parts.values() for call in trace.calls)

    @property
    def payload_bytes(self) -> int:
        """Bytes of tensors that are on disk."""
        return sum(trace.payload_bytes for trace in self.parts.values())

    def tell(self, *, came_from: str, refused: str, denied: Mapping[int, str]) -> None:
        """Tell every part what `DiskTrace` is told before it is executed."""
        self.source = came_from
        for rank, trace in self.parts.items():
            trace.tell(came_from=f"{came_from} (rank {rank})", refused=refused, denied=denied)

    def close(self) -> None:
        """Let go of the files of every part; see `DiskTrace.close`."""
        for trace in self.parts.values():
            trace.close()

    def watch(self, watched: Watched) -> None:
        """Tell of every call of every part while it is executed."""
        for trace in self.parts.values():
            trace.watch(watched)


def open_side(
    path: str | os.PathLike[str], *, trust: bool = False, limits: Limits | None = None
) -> DiskTrace | RankedTrace:
    """Open a trace: of one process, or of several ranks, of which some may not be readable.

    Raises:
        TraceFormatError: not a trace, damaged or hostile.
    """
    if is_url(path) or (Path(path) / MANIFEST).exists() or len(parts(path)) < 2:
        return open_trace(path, trust=trust, limits=limits)
    found, unreadable = open_ranks(path, trust=trust, limits=limits)
    if not found:
        return open_trace(next(iter(parts(path).values())), trust=trust, limits=limits)  # says what is wrong with it
    return RankedTrace(Path(path), found, unreadable)


@contextmanager
def ending(sides: tuple[Side, ...]) -> Iterator[tuple[Side, ...]]:
    """The sides of a comparison, until it ends: then the traces among them are closed."""
    try:
        yield sides
    finally:
        for side in sides:
            if isinstance(side, (DiskTrace, RankedTrace)):
                side.close()
