"""Which traces this process wrote itself, and nobody changed since: those are replayed without a worker."""

from __future__ import annotations

import os
from pathlib import Path

_Files = frozenset[tuple[str, int, int, int, int]]
_written: dict[str, _Files] = {}


def wrote(root: Path) -> None:
    """Remember a trace that was just finished."""
    _written[os.path.realpath(root)] = _files(root)


def is_own(root: Path) -> bool:
    """Whether this process finished the trace and no file of it was touched since (a time of change is the system's)."""
    known = _written.get(os.path.realpath(root))
    return known is not None and known == _files(root)


def _files(root: Path) -> _Files:
    found = []
    for entry in os.scandir(root):
        at = entry.stat(follow_symlinks=False)
        found.append((entry.name, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns))
    return frozenset(found)
