"""``python -m whydiff.studies.artifacts.foreign.child KIND PATH NUMBERS DOCUMENT``: read one file within limits."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from whydiff.capturing.store.layout import size_on_disk
from whydiff.errors import one_line
from whydiff.studies.artifacts.foreign.out import Out

REFUSED = 3
"""Exit status after an error that was told."""
_READERS = "whydiff.studies.artifacts.foreign."
MEMORY = 512 << 20
"""Bytes that a reader may hold beside four times the file."""
SECONDS = 60
"""Processor time beside what reading the file at 20 MB/s takes."""


def main() -> int:
    """Write the numbers and the document; an error is told on standard error."""
    kind, path, numbers, document = sys.argv[1], *map(Path, sys.argv[2:])
    reader_of(kind)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        carried_out(kind, path, numbers, document)
    except BaseException as error:  # noqa: BLE001 - the process that waits is told
        sys.stderr.write("\n" + one_line(error))
        sys.stderr.flush()
        os._exit(REFUSED)
    os._exit(0)


def reader_of(kind: str) -> Any:
    """The module that reads a format; the libraries that it needs are imported, before anything is bounded."""
    reader = importlib.import_module(f"{_READERS}{kind}")
    for library in reader.NEEDS:
        importlib.import_module(library)
    return reader


def carried_out(kind: str, path: Path, numbers: Path, document: Path) -> None:
    """Read one file in this process, which stays within the limits from here on."""
    reader = reader_of(kind)
    found = [entry for entry in path.rglob("*") if not entry.is_dir()] if path.is_dir() else [path]
    if others := [entry.name for entry in found if not entry.is_file()]:  # a library would wait for a pipe
        raise ValueError(f"{others[0][:60]!r} is no regular file")
    size = sum(map(size_on_disk, found))
    _bound(size, numbers)
    with open(numbers, "wb") as file:
        out = Out(file)
        reader.read(path, out)
    document.write_text(out.document(), encoding="utf-8")


def _bound(size: int, numbers: Path) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError, StopIteration):
        import resource

        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        held = 1024 * int(next(line for line in lines if line.startswith("VmData")).split()[1])
        free = os.statvfs(numbers).f_bavail * os.statvfs(numbers).f_frsize
        for limit, asked in (
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_DATA, held + MEMORY + 4 * size),
            (resource.RLIMIT_CPU, SECONDS + size // (20 << 20)),
            (resource.RLIMIT_FSIZE, free // 2),
        ):
            hard = resource.getrlimit(limit)[1]
            if hard == resource.RLIM_INFINITY or asked < hard:
                resource.setrlimit(limit, (asked, hard))


if __name__ == "__main__":
    sys.exit(main())
