"""Open a trace from disk. Nothing in a trace is executed or unpickled, and every value is checked."""

from __future__ import annotations

import copy
import functools
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whydiff.capturing.limits import Bounds, Limits, Watched
from whydiff.capturing.ranks import parts
from whydiff.capturing.sink import payload_key
from whydiff.capturing.store.check import check_references
from whydiff.capturing.store.decode import IndexDecoder, Mark, Stored, read_lines
from whydiff.capturing.store.dtypes import NATIVE, TAGS, saved_shape
from whydiff.capturing.store.exchanges import read_exchanges
from whydiff.capturing.store.layout import (
    COPY_AGAIN,
    INDEX,
    MANIFEST,
    read_text_file,
    regular_file,
    shard_name,
    size_on_disk,
    trace_directory,
)
from whydiff.capturing.store.manifest import Manifest, read_manifest
from whydiff.capturing.store.own import is_own
from whydiff.capturing.store.remote import fetch, is_url
from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.errors import TraceError, TraceFormatError, one_line
from whydiff.garbage import not_collecting
from whydiff.records import Call, Output, Payload
from whydiff.takes import PATH, instance, takes


class DiskTrace:
    """A `whydiff.records.Trace` on disk: records are in memory, payloads are read when asked for.

    Payload arrays are read-only slices of a memory map; copy them before changing or keeping them beyond the
    life of the files. The files stay open until `close` (or the end of a ``with``).

    Attributes:
        directory: where its files lie on this machine.
        source: the path or URL it was opened from.
        captured: how the run was captured, as the capture wrote it.
        complete: False if the capture stopped early; the note says where.
        holes: what was met and not recorded; of a trace that was never closed, nobody knows.
        handles: nothing, a trace on disk holds no framework's values.
        trusted: it is executed like a live run: this process wrote it, or its user vouches for it.
        others: see `whydiff.records.Trace`.
    """

    def __init__(self, root: Path, manifest: Manifest, index: IndexDecoder, note: str) -> None:
        self.trusted = False
        self.limits = Limits()
        self.denied: dict[int, str] = {}
        self.refused = ""
        self.watched: Watched | None = None
        self.directory, self.source, self.note = root, str(root), note
        self.framework, self.level, self.complete = manifest.framework, manifest.level, manifest.complete
        self.ties, self.scalars, self.config = manifest.ties, manifest.scalars, manifest.config
        self.environment, self.observer, self.holes = manifest.environment, manifest.observer, manifest.holes
        self.captured, self.handles = manifest.captured, dict[str, Any]()
        self.calls, self.contexts = tuple(index.calls), tuple(index.contexts)
        self._outputs, self._stored, self._shards = manifest.outputs, index.payloads, index.shards
        self.leaves = tuple(  # a key whose tensor was not kept names nothing
            leaf if not leaf.payload or leaf.payload in self._stored else replace(leaf, payload="")
            for leaf in index.leaves
        )
        self._open: dict[int, SafetensorsFile] = {}
        self._verified: set[str] = set()
        self.closed = False
        self.lent: Any = None  # a temporary folder that lives as long as this trace

    def __repr__(self) -> str:
        state = "complete" if self.complete else "incomplete"
        return f"<DiskTrace {self.source}: {len(self.calls)} calls, {len(self._stored)} payloads, {state}>"

    def __enter__(self) -> DiskTrace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files: no payload can be read any more. Arrays that were read stay valid, and keep theirs."""
        self.closed = True
        vars(self).pop("outputs", None)
        opened, self._open = self._open, {}
        for shard in opened.values():
            shard.close()
        if self.lent is not None:
            self.lent.cleanup()

    def tell(self, *, came_from: str, refused: str, denied: Mapping[int, str]) -> None:
        """What is known before it is executed: its name, why it must not be, calls that are not."""
        self.source, self.refused, self.denied = came_from, refused, dict(denied)

    def watch(self, watched: Watched) -> None:
        """Tell of every call while it is executed."""
        self.watched = watched

    def with_calls(self, calls: Sequence[Call], outputs: Sequence[Output]) -> DiskTrace:
        """The same files with other calls that give back something else; closed by closing this one."""
        other = copy.copy(self)
        other.calls = tuple(calls)
        vars(other)["outputs"] = tuple(outputs)
        return other

    @functools.cached_property
    def payload_bytes(self) -> int:
        """Bytes of tensors that really are on disk (a hole in a file is none)."""
        return sum(size_on_disk(self.directory / shard_name(number)) for number in range(len(self._shards)))

    @functools.cached_property
    def bounds(self) -> Bounds | None:
        """What a replay may take; None for a trace that is trusted."""
        if self.trusted:
            return None
        limits = self.limits.with_payloads(self.payload_bytes, len(self.calls))
        return Bounds(limits, self.denied, self.watched)

    @functools.cached_property
    def exchanges(self) -> Sequence[Call]:
        """Collectives that began, in order, without values; also those that never ended."""
        return read_exchanges(self.directory, self.calls)

    @functools.cached_property
    def outputs(self) -> tuple[Output, ...] | None:
        """What the run gave back; None if the trace is older than this record."""
        return None if self._outputs is None else tuple(self._with_bits(output) for output in self._outputs)

    def _with_bits(self, output: Output) -> Output:
        payload = self.payload(payload_key(output.slot)) if output.kind == "numbers" else None
        return output if payload is None else replace(output, payload=payload)

    @property
    def payloads(self) -> Mapping[str, Callable[[], Payload | None]]:
        """Keys of the full tensors that were kept, in the order written → functions that read them."""
        return {key: functools.partial(self.payload, key) for key in self._stored}

    def payload(self, key: str) -> Payload | None:
        """The full tensor behind ``key``, or None if it was not kept.

        Raises:
            TraceFormatError: the shard or the tensor's bytes were damaged.
            TraceError: the trace was closed.
        """
        stored = self._stored.get(key)
        if stored is None:
            return None
        shard = self._shard(stored.shard)
        self._verify(key, stored, shard)
        return Payload(shard.array(stored.name, NATIVE[stored.stored], stored.shape), stored.dtype)

    def _shard(self, number: int) -> SafetensorsFile:
        if self.closed:
            raise TraceError("A trace that was closed is read.", where=self.source, next_step="open it again")
        if number not in self._open:
            shard = SafetensorsFile(regular_file(self.directory, shard_name(number)))
            told = self._shards[number]
            if (shard.size, shard.header_crc32) != (told.size, told.header_crc32):
                raise TraceFormatError(
                    "A payload shard is not the one that was written.",
                    where=str(shard.path),
                    actual=f"{shard.size} bytes, header checksum {shard.header_crc32:08x}",
                    expected=f"{told.size} bytes, {told.header_crc32:08x}",
                    next_step=COPY_AGAIN,
                )
            self._open[number] = shard
        return self._open[number]

    def _verify(self, key: str, stored: Stored, shard: SafetensorsFile) -> None:
        if key in self._verified:
            return
        where = f"{shard.path}: {key}"
        tag, shape, _, _ = shard.entries.get(stored.name, ("nothing", (), 0, 0))
        if (TAGS.get(tag, ("", ""))[1], shape) != saved_shape(stored.stored, stored.shape):
            raise TraceFormatError(
                "A payload does not look as the index says.",
                where=where,
                actual=f"{tag}{list(shape)}",
                expected=f"{stored.stored}{list(stored.shape)} for {stored.dtype}",
                next_step=COPY_AGAIN,
            )
        crc = zlib.crc32(shard.slice(stored.name))
        if crc != stored.crc32:
            raise TraceFormatError(
                "A payload was damaged after it was written.",
                where=where,
                actual=f"checksum {crc:08x}",
                expected=f"{stored.crc32:08x}",
                next_step=COPY_AGAIN,
            )
        self._verified.add(key)


@takes("open", path=PATH, limits=instance(Limits))
def open_trace(path: str | os.PathLike[str], *, trust: bool = False, limits: Limits | None = None) -> DiskTrace:
    """Open a trace directory, or one at an fsspec URL (copied to a temporary folder); runs no code from it.

    A trace whose writer was killed opens up to the last complete step: ``complete`` is False and ``note``
    says how far it goes. Damage to any other trace is an error.

    Args:
        path: of the directory, or a URL.
        trust: replay it like a live run: any registered operator, without limits. A trace that this process wrote is
            trusted anyway.
        limits: for the replay of a trace that is not.

    Raises:
        TraceFormatError: not a trace, damaged or hostile; the message names file and line.
        TraceVersionError: written by a schema version that this whydiff does not read.
    """
    if is_url(path):
        folder = tempfile.TemporaryDirectory(prefix="whydiff-remote-")
        trace = open_trace(fetch(str(path), Path(folder.name)), trust=trust, limits=limits)
        trace.lent, trace.source = folder, str(path)
        return trace
    root = trace_directory(_lone_part(path))
    manifest = read_manifest(root)
    file = regular_file(root, INDEX)
    index, torn = _read_index(read_text_file(file), file, manifest)
    note = manifest.note
    if not manifest.closed:
        note = "; ".join(part for part in (note, _cut(index, torn)) if part)
    check_references(index.calls, index.leaves, len(index.contexts), str(root), manifest.closed and manifest.complete)
    for number, shard in enumerate(index.shards):
        size = regular_file(root, shard_name(number)).stat().st_size
        if size != shard.size:
            raise TraceFormatError(
                "A payload shard does not have the size that was written.",
                where=str(root / shard_name(number)),
                actual=f"{size} bytes",
                expected=f"{shard.size} bytes",
                next_step=COPY_AGAIN,
            )
    trace = DiskTrace(root, manifest, index, note)
    trace.trusted, trace.limits = trust or is_own(root), limits or Limits()
    return trace


def _lone_part(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The path itself, or the only rank's part that lies there.

    Raises:
        TraceFormatError: it holds several ranks' parts.
    """
    found = {} if (Path(path) / MANIFEST).exists() else parts(path)
    if len(found) > 1:
        raise TraceFormatError(
            "This is the trace of several ranks, of which each has its own part.",
            where=str(path),
            actual=f"ranks {', '.join(map(str, found))}",
            expected="one rank",
            next_step=f"Name one: {next(iter(found.values()))}. All together: whydiff compare one.trace {path}",
        )
    return next(iter(found.values()), path)


def open_ranks(
    path: str | os.PathLike[str], *, trust: bool = False, limits: Limits | None = None
) -> tuple[dict[int, DiskTrace], dict[int, str]]:
    """Open every rank's part of a trace; see `open_trace`.

    Returns:
        The parts by rank, and why the others cannot be opened (a rank that died before it had written anything).
    """
    found: dict[int, DiskTrace] = {}
    unreadable: dict[int, str] = {}
    for number, folder in parts(path).items():
        try:
            found[number] = open_trace(folder, trust=trust, limits=limits)
        except TraceFormatError as error:
            unreadable[number] = one_line(error)
    return found, unreadable


@not_collecting()
def _read_index(data: bytes, file: Path, manifest: Manifest) -> tuple[IndexDecoder, bool]:
    if manifest.closed and len(data) != manifest.index_bytes:
        raise TraceFormatError(
            "The index does not have the size that was written.",
            where=str(file),
            actual=f"{len(data)} bytes",
            expected=f"{manifest.index_bytes} bytes",
            next_step=COPY_AGAIN,
        )
    index = IndexDecoder()
    torn = read_lines(index, data, file)
    if manifest.closed and (torn or not index.ended or zlib.crc32(data) != manifest.index_crc32):
        raise TraceFormatError(
            "The index is not the one that was written.",
            where=str(file),
            actual=f"checksum {zlib.crc32(data):08x}",
            expected=f"{manifest.index_crc32:08x}, with an end line",
            next_step=COPY_AGAIN,
        )
    return index, torn


def _cut(index: IndexDecoder, torn: bool) -> str:
    lost, steps = index.keep_marked(), index.mark.steps
    if index.ended:
        return f"killed while closing, after step {steps}; every call is here, the environment may be missing"
    opened = f"opened up to step {steps} (last complete)" if steps else "no step was complete"
    if index.within:
        opened = f"opened up to step {steps + 1}, of which a pass had ended"
    note = f"killed during step {steps + 1}, or still being written; {opened}"
    if lost != Mark() or torn:
        note += f"; left out after it: {lost.calls} calls, {lost.leaves} leaves, {lost.payloads} payloads"
        note += ", one torn line" if torn else ""
    return note
