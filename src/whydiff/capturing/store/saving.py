"""Write a trace that is held in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from whydiff.capturing.sink import chosen, manifest_of, send
from whydiff.capturing.store.check import check_references
from whydiff.capturing.store.writer import TraceWriter
from whydiff.errors import UsageError
from whydiff.records import Trace


def save(
    trace: Trace, path: str | os.PathLike[str], *, payloads: str | Iterable[str] = "all", overwrite: bool = False
) -> None:
    """Write a trace that is held in memory (or on disk elsewhere).

    Args:
        trace: what to write.
        path: the directory to make.
        payloads: ``"all"``, ``"none"``, or patterns (`fnmatch`) of payload keys. Payloads are made one at a
            time; at most one shard of them is held.
        overwrite: replace an existing trace.

    Raises:
        UsageError: the path is in use, or a pattern fits no payload.
        CaptureError: a record cannot be written.
        TraceFormatError: the trace contradicts itself.
    """
    chosen(trace, payloads)  # a pattern that fits nothing is said before anything is written
    if trace.source != "live" and Path(trace.source).resolve() == Path(path).resolve():
        raise UsageError("A trace cannot be written over itself.", where=str(path), next_step="Choose another path.")
    check_references(trace.calls, trace.leaves, len(trace.contexts), trace.source, trace.complete)
    with TraceWriter(
        path, framework=trace.framework, level=trace.level, overwrite=overwrite, environment=trace.environment
    ) as writer:
        send(trace, writer, payloads)
        writer.close(**manifest_of(trace), complete=trace.complete)
