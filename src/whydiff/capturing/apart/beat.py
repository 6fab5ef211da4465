"""A few bytes that two processes share: which call is being executed, so that one can tell where the other died."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FORM = struct.Struct("<QqqQ")  # how often it was told, side (0, 1), call, whether it is being executed


class Beat:
    """Told by the process that replays, read by the one that waits.

    Args:
        path: a file of `Beat.SIZE` bytes.
    """

    SIZE = _FORM.size

    def __init__(self, path: Path) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), self.SIZE)
        self._count = self._depth = 0

    @contextmanager
    def during(self, side: int, call: int) -> Iterator[None]:
        """A block in which a call of a side is executed; one inside another belongs to the outer one."""
        self._begun(side, call)
        try:
            yield
        finally:
            self._ended()

    def _begun(self, side: int, call: int) -> None:
        self._depth += 1
        if self._depth == 1:
            self._count += 1
            _FORM.pack_into(self._map, 0, self._count, side, call, 1)

    def _ended(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._count += 1
            _FORM.pack_into(self._map, 0, self._count, -1, -1, 0)

    def now(self) -> tuple[int, tuple[int, int] | None]:
        """(how often it was told, (side, call) being executed or None)."""
        count, side, call, running = _FORM.unpack_from(self._map, 0)
        return count, (side, call) if running else None

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
