"""Sealed traces that somebody changed on purpose, and how one of them is compared in a process forked from this one.

A fork costs a hundredth of a new interpreter, so that thousands can be tried. The forked process is what the worker
process is (`whydiff.capturing.apart.child`), and is watched by the same code.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

import torch
from tests import sealed
from tests.sealed import Manifest, Rows

import whydiff
from whydiff.capturing.apart import asking, child, comparing


class Forked:
    """A process that waits for a request, with what is used of a `subprocess.Popen`."""

    def __init__(self) -> None:
        (theirs, ours), (mine, its) = os.pipe(), os.pipe()
        self.pid, self.code, self.peak, self.seconds = os.fork(), None, 0, 0.0
        if self.pid == 0:
            os.setsid()
            for old, new in ((theirs, 0), (its, 1)):
                os.dup2(old, new)
            os.closerange(3, 256)
            sys.stdin = os.fdopen(0, encoding="utf-8")
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            try:
                child.main()
            finally:
                os._exit(99)
        os.close(theirs)
        os.close(its)
        self.stdin: IO[bytes] = os.fdopen(ours, "wb")
        self.stdout: IO[bytes] = os.fdopen(mine, "rb")

    def _waited(self, options: int) -> int | None:
        if self.code is None:
            pid, status, usage = os.wait4(self.pid, options)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self.peak, self.seconds = usage.ru_maxrss << 10, usage.ru_utime + usage.ru_stime
        return self.code

    def poll(self) -> int | None:
        return self._waited(os.WNOHANG)

    def wait(self) -> int:
        return int(self._waited(0) or 0)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, sig: int) -> None:
        os.kill(self.pid, sig)


@contextmanager
def forking() -> Iterator[list[Forked]]:
    """A block in which a worker process is a fork; the forks that were made."""
    made: list[Forked] = []

    def start() -> Forked:
        made.append(Forked())
        return made[-1]

    with mock.patch.object(comparing, "asked", functools.partial(asking.asked, start=start)):
        yield made


def warm(reference: Path, candidate: Path) -> Any:
    """Load in this process what a comparison loads, so that forks have it; the honest diagnosis."""
    torch.set_num_threads(1)
    return whydiff.compare(reference, candidate, options=whydiff.pipeline.Options(trust=True))


# ------------------------------------------------------------------------------------------------ sealed


def parts(root: Path) -> tuple[Manifest, Rows]:
    """The manifest and the index's lines as data; all texts in the first line, all specs in the second."""
    manifest, rows = sealed.parts(root)
    tables = [[word, [item for row in rows if row[0] == word for item in row[1]]] for word in ("strings", "specs")]
    return manifest, [*tables, *(row for row in rows if row[0] not in ("strings", "specs"))]


def seal_payloads(root: Path, rows: Rows) -> None:
    """Put the checksums of the payloads' bytes, as they are now, into the index's lines."""
    raw = (root / "payloads-00000.safetensors").read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:length])
    for row in rows:
        if row[0] == "payload" and row[1] in header:
            begin, end = header[row[1]]["data_offsets"]
            row[6] = zlib.crc32(raw[length + begin : length + end])
        elif row[0] == "shard":
            row[2:] = [len(raw), zlib.crc32(raw[:length])]


def calls(rows: Rows) -> list[list[Any]]:
    """The lines of calls: 3 is the target, 5 what is read, 6 what is written, 7 the arguments, 9 the context."""
    return [row for row in rows if row[0] == "call"]


def text(rows: Rows, new: str) -> int:
    """The number of a text, which is added if it is new."""
    known: list[str] = rows[0][1]
    if new not in known:
        known.append(new)
    return known.index(new)


def spec(rows: Rows, shape: list[int], strides: list[int], offset: int = 0, dtype: str = "float32") -> int:
    """The number of a spec that is added."""
    rows[1][1].append([shape, text(rows, dtype), text(rows, "cpu"), strides, offset])
    return len(rows[1][1]) - 1


def computing(rows: Rows) -> list[list[Any]]:
    """The calls that are executed."""
    return [row for row in calls(rows) if row[4] == "compute"]


def executed(rows: Rows) -> None:
    """Forget what calls wrote, so that a replay has to execute them."""
    for call in computing(rows):
        for event in call[6]:
            event[6] = text(rows, "")


def call_instead(rows: Rows, number: int, target: str, arguments: Any = None) -> list[Any]:
    """Let the n-th executed call name another operator, with other arguments; the call's line."""
    executed(rows)
    call = computing(rows)[number]
    call[3] = text(rows, target)
    if arguments is not None:
        call[7] = arguments
    return call


def copied(source: Path, place: Path) -> Path:
    """A copy that nobody trusts."""
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(source, place))
