"""Where the parts of a trace lie, and how its files are opened safely.

A trace is a directory: ``manifest.json``, ``events.jsonl`` and ``payloads-00000.safetensors`` … (see
``docs/reference/trace-format.md``). No file name is ever read from a trace: shard names are made from
numbers.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from whydiff.errors import TraceFormatError, UsageError

FORMAT = "whydiff-trace"
MANIFEST = "manifest.json"
INDEX = "events.jsonl"
EXCHANGES = "exchanges.jsonl"
TEMPORARY = ".tmp"
SHARD_BYTES = 256 * 2**20
"""A payload shard is closed when it would grow beyond this many bytes (and at every step end)."""
MAYBE_HOLE = 1 << 26
"""Bytes of a file of text that is read without asking whether all of them are there."""
RESERVE = 1 << 16
"""Bytes that a capture holds back on a disk, for the manifest of a trace that ends because the disk is full."""

COPY_AGAIN = "Copy the trace again from where it was made, or capture the run again."
STEPS = "steps.jsonl"
"""The file of a log of steps, which is no trace."""
A_LOG = "Compare two logs with `whydiff training A B`, the ranks of one run with `whydiff ranks`."
NOT_A_TRACE = "Give the directory that `whydiff capture` wrote (it holds manifest.json and events.jsonl)."


def shard_name(number: int) -> str:
    """File name of a payload shard, e.g. ``payloads-00003.safetensors``."""
    return f"payloads-{number:05d}.safetensors"


def is_own_file(name: str) -> bool:
    """True for a file name that a trace writer makes (finished or temporary)."""
    name = name.removesuffix(TEMPORARY)
    digits = name.removeprefix("payloads-").removesuffix(".safetensors")
    is_number = digits.isascii() and digits.isdigit()
    return name in (MANIFEST, INDEX, EXCHANGES) or (is_number and name == shard_name(int(digits)))


def regular_file(root: Path, name: str, next_step: str = COPY_AGAIN) -> Path:
    """The resolved path of a file that lies inside a trace directory.

    Raises:
        TraceFormatError: it is missing, leaves the directory through a link, or is no regular file.
    """
    path = root / name
    try:
        resolved = path.resolve(strict=True)
        mode = os.stat(resolved).st_mode
        inside = resolved.is_relative_to(root.resolve(strict=True))
    except FileNotFoundError:
        raise TraceFormatError(
            "A file of the trace is missing.", where=str(path), actual="no such file", next_step=next_step
        ) from None
    except (OSError, RuntimeError) as error:
        raise TraceFormatError(
            "A file of the trace cannot be opened.", where=str(path), actual=str(error), next_step=next_step
        ) from error
    if not inside:
        raise TraceFormatError(
            "A file of the trace is a link that leaves the trace's directory.",
            where=str(path),
            actual=str(resolved),
            expected="a file inside the directory",
            next_step="Do not open this trace unless you know who made it; copy the files themselves.",
        )
    if not stat.S_ISREG(mode):
        raise TraceFormatError(
            "A file of the trace is no regular file.",
            where=str(path),
            actual=stat.filemode(mode),
            expected="a regular file",
            next_step=next_step,
        )
    return resolved


def read_text_file(path: Path) -> bytes:
    """The whole of a manifest or an index.

    Raises:
        TraceFormatError: a hole makes it large (no text has one), it does not fit into memory, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= MAYBE_HOLE or _first_hole(file.fileno(), size) == size:
                return file.read()
    except (OSError, MemoryError) as error:
        raise TraceFormatError(
            "A file of the trace cannot be read.", where=str(path), actual=str(error) or "out of memory"
        ) from error
    raise TraceFormatError(
        "A file of the trace has a hole.",
        where=str(path),
        actual=f"{size} bytes, {size_on_disk(path)} on disk",
        expected="text from its beginning to its end",
        next_step=COPY_AGAIN,
    )


def _first_hole(file: int, size: int) -> int:
    """Where nothing is on disk; the size if that is nowhere, or if the system does not tell."""
    try:
        return min(os.lseek(file, 0, os.SEEK_HOLE), size)
    except (AttributeError, OSError):
        return size
    finally:
        os.lseek(file, 0, os.SEEK_SET)


def size_on_disk(path: Path) -> int:
    """Bytes of a file that really are on disk: a hole in it is none, and costs nobody anything to make."""
    at = os.stat(path)
    return min(at.st_size, getattr(at, "st_blocks", 1 << 62) * 512)


def trace_directory(path: str | os.PathLike[str]) -> Path:
    """The path of an existing directory that has a manifest.

    Raises:
        TraceFormatError: nothing there, no directory, empty, a log of steps, or a directory of something else.
    """
    root = Path(path)
    try:
        names = os.listdir(root)
    except (OSError, ValueError) as error:
        actual = "a file" if isinstance(error, NotADirectoryError) else str(error)
        raise TraceFormatError(
            "There is no trace here.", where=str(root), actual=actual, expected="a directory", next_step=NOT_A_TRACE
        ) from error
    if MANIFEST not in names:
        found = ", ".join(sorted(names)[:5]) + (" …" if len(names) > 5 else "")
        is_log = STEPS in names
        raise TraceFormatError(
            "This directory is a log of steps, not a trace." if is_log else "This directory is not a trace.",
            where=str(root),
            actual=found or "an empty directory",
            expected=f"{MANIFEST}, {INDEX}",
            next_step=A_LOG if is_log else NOT_A_TRACE,
        )
    return root


def replace_file(path: Path, data: bytes) -> None:
    """Write a whole file so that a reader sees either the old one or the new one, also after a power cut."""
    temporary = path.with_name(path.name + TEMPORARY)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def make_room(path: Path, overwrite: bool) -> None:
    """Make the directory of a new trace; an existing trace is deleted if ``overwrite`` says so, nothing else ever.

    Raises:
        UsageError: there is something else, or a trace that is not to be replaced.
        OSError: the directory cannot be made.
    """
    path.mkdir(parents=True, exist_ok=True)
    names = os.listdir(path)
    if not names:
        return
    foreign = [name for name in names if not is_own_file(name)]
    if not overwrite or foreign or MANIFEST not in names:
        raise UsageError(
            "There is something at the path of the new trace.",
            where=str(path),
            actual=", ".join(sorted(foreign or names)[:5]),
            expected="nothing, or an empty directory",
            next_step="Choose another path." if foreign else "Choose another path, or overwrite the trace.",
        )
    # The manifest goes last, so that an interrupted overwrite can be repeated.
    for name in sorted(names, key=lambda name: name == MANIFEST):
        (path / name).unlink()
