"""Write a trace: records as they come, durable at every step's end, bounded memory for payloads."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from whydiff.capturing.sink import Sink, chosen, manifest_of, send
from whydiff.capturing.store.check import check_references
from whydiff.capturing.store.dtypes import as_saved, stored_array
from whydiff.capturing.store.encode import IndexEncoder, line
from whydiff.capturing.store.layout import (
    INDEX,
    INDEX_BUFFER,
    MANIFEST,
    SHARD_BYTES,
    TEMPORARY,
    is_own_file,
    shard_name,
)
from whydiff.capturing.store.manifest import NOT_CHECKED, Manifest, write_manifest
from whydiff.capturing.store.own import wrote
from whydiff.capturing.store.safetensors_file import MAX_DIMENSIONS, SafetensorsFile
from whydiff.errors import CaptureError, UsageError
from whydiff.records import Call, Environment, Leaf, ObserverCheck, Output, Payload, Trace


class TraceWriter(Sink):
    """Writes one trace directory. A context manager: an exception inside closes the trace as incomplete.

    What was added before the last `end_step` survives the death of the process (SIGKILL): such a trace opens
    up to there and says so.

    Args:
        path: the directory to make.
        framework: ``"torch"`` or ``"jax"``.
        level: ``"op"`` or ``"module"``.
        overwrite: replace an existing trace. Anything else that is in the way is never deleted.
        environment: known at once if given here, so that a killed trace has it too.
        captured: how the run is captured (JSON-able), for the manifest.
        shard_bytes: a payload shard is closed before it would grow beyond this.

    Raises:
        UsageError: the path is in use, or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        framework: str,
        level: str,
        overwrite: bool = False,
        environment: Environment | None = None,
        captured: Mapping[str, Any] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.path = Path(path)
        self._manifest = Manifest(framework, level, captured=captured or {}, environment=environment or Environment())
        self._shard_bytes = shard_bytes
        self._encoder = IndexEncoder()
        self._calls = self._leaves = self._contexts = self._steps = self._shards = 0
        self._keys: set[str] = set()
        self._waiting: dict[str, tuple[np.ndarray[Any, Any], str, str]] = {}  # key → bits, dtype, stored
        self._waiting_bytes = 0
        self._size = self._crc = 0
        self._closed = False
        try:
            _make_room(self.path, overwrite)
            write_manifest(self.path, self._manifest)
            self._index = open(self.path / INDEX, "xb", buffering=INDEX_BUFFER)  # noqa: SIM115
        except OSError as error:
            raise UsageError(
                "The trace cannot be written here.",
                where=str(self.path),
                actual=str(error),
                next_step="Choose another path.",
            ) from error

    def __enter__(self) -> TraceWriter:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close; as incomplete, with the exception's text in the note, if there is one."""
        if self._closed:
            return
        if error is None:
            self.close()
        else:
            name = type(error).__name__
            self._finish(
                Manifest(
                    self._manifest.framework,
                    self._manifest.level,
                    complete=False,
                    note=f"the capture ended with {name}: {error}".rstrip(": "),
                    captured=self._manifest.captured,
                    environment=self._manifest.environment,
                    observer=ObserverCheck(
                        deterministic=None, unchanged=None, outputs=0, note="the capture ended with an exception"
                    ),
                )
            )

    def _write(self, data: bytes) -> None:
        if self._closed:
            raise _closed(self.path)
        with _recording(self.path):
            self._index.write(data)
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)

    def add_calls(self, calls: Sequence[Call]) -> None:
        """Add calls in execution order; the contexts that they name come first (none: one empty context).

        Raises:
            CaptureError: a call's index is not its position, it names a context that was not added, or a
                record cannot be written.
        """
        if not self._contexts:
            self.add_contexts([{}])
        for position, call in enumerate(calls, self._calls):
            if call.index != position:
                raise CaptureError(
                    "A call's index is not its position.",
                    where=str(call.site),
                    actual=str(call.index),
                    expected=str(position),
                )
            if not 0 <= call.context < self._contexts:
                raise CaptureError(
                    "A call names a context that was not added.",
                    where=str(call.site),
                    actual=str(call.context),
                    expected=f"below {self._contexts}",
                    next_step="Add contexts before the calls that name them.",
                )
        self._write(self._encoder.calls(calls))
        self._calls += len(calls)

    def add_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Add leaves; they may come before or after the calls that read them.

        Raises:
            CaptureError: a record cannot be written.
        """
        self._write(self._encoder.leaves(leaves))
        self._leaves += len(leaves)

    def add_contexts(self, contexts: Sequence[Mapping[str, Any]]) -> None:
        """Add contexts (flags in force); calls name them by position.

        Raises:
            CaptureError: a value that JSON cannot carry.
        """
        self._write(self._encoder.contexts(contexts))
        self._contexts += len(contexts)

    def add_payload(self, key: str, payload: Payload) -> None:
        """Add a full tensor; its bits are copied, so the caller may reuse the memory at once.

        Raises:
            CaptureError: the key is empty, reserved or taken, or the bits do not have the payload's dtype.
        """
        if not key or key == "__metadata__" or key in self._keys or not key.isprintable():
            raise CaptureError(
                "A payload's key cannot be used.",
                where=repr(key),
                actual="taken" if key in self._keys else "",
                expected="a new, printable, non-empty string other than __metadata__",
            )
        if payload.bits.ndim > MAX_DIMENSIONS:
            raise CaptureError("A payload has too many dimensions.", where=key, actual=str(payload.bits.ndim))
        if self._waiting and self._waiting_bytes + payload.bits.nbytes > self._shard_bytes:
            self._close_shard()
        bits, stored = stored_array(key, payload)
        self._keys.add(key)
        self._waiting[key] = (bits, payload.dtype, stored)
        self._waiting_bytes += bits.nbytes

    def _close_shard(self) -> None:
        if not self._waiting:
            return
        path = self.path / shard_name(self._shards)
        temporary = path.with_name(path.name + TEMPORARY)
        with _recording(path):
            save_file({key: as_saved(bits) for key, (bits, _, _) in self._waiting.items()}, str(temporary))
            header = SafetensorsFile(temporary)
            os.replace(temporary, path)
        rows: list[list[Any]] = [["shard", self._shards, header.size, header.header_crc32]]
        for key, (bits, dtype, stored) in self._waiting.items():
            crc = zlib.crc32(header.slice(key))
            rows.append(["payload", key, dtype, stored, list(bits.shape), self._shards, crc])
        self._write(b"".join(line(row) for row in rows))
        self._shards += 1
        self._waiting.clear()
        self._waiting_bytes = 0

    def _mark(self, word: str) -> None:
        self._close_shard()
        if not self._contexts:
            self.add_contexts([{}])
        counts = [self._calls, self._leaves, self._contexts, len(self._keys), self._shards]
        self._write(line([word, self._steps, *counts]))
        with _recording(self.path):
            self._index.flush()

    def end_step(self) -> None:
        """End a step: everything added so far survives the death of this process."""
        self._steps += 1
        self._mark("step")

    def close(
        self,
        *,
        environment: Environment | None = None,
        observer: ObserverCheck = NOT_CHECKED,
        ties: Sequence[tuple[str, ...]] = (),
        scalars: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        note: str = "",
        complete: bool = True,
        outputs: Sequence[Output] | None = None,
    ) -> None:
        """Finish the trace; from here on any damage to its files is an error when it is opened.

        Args:
            environment: as it was during the run; the one given to the constructor if not given.
            observer: result of the observer check.
            ties: names of state that share one storage.
            scalars: plain attributes of modules.
            config: flattened model config.
            note: anything worth reading; say why if the trace is not complete.
            complete: False if the capture stopped early.
            outputs: what the run gave back; their bits are payloads under `payload_key`, if they are kept.

        Raises:
            UsageError: closed already.
            CaptureError: a value that JSON cannot carry.
        """
        if observer is NOT_CHECKED:
            observer = ObserverCheck(
                deterministic=None, unchanged=None, outputs=0, note="the observer check was not run"
            )
        self._finish(
            Manifest(
                self._manifest.framework,
                self._manifest.level,
                complete=complete,
                note=note,
                captured=self._manifest.captured,
                environment=environment or self._manifest.environment,
                observer=observer,
                ties=tuple(ties),
                scalars=scalars or {},
                config=config or {},
                outputs=None if outputs is None else tuple(outputs),
            )
        )

    def _finish(self, manifest: Manifest) -> None:
        if self._closed:
            raise _closed(self.path)
        with _recording(self.path):
            # First as still open: if a value cannot be written, the trace can be closed again without it.
            write_manifest(self.path, replace(manifest, complete=False))
            self._mark("end")
            os.fsync(self._index.fileno())
            self._index.close()
            self._closed = True
            closing = replace(manifest, closed=True, index_bytes=self._size, index_crc32=self._crc)
            write_manifest(self.path, closing)
        wrote(self.path)


@contextmanager
def _recording(path: Path) -> Iterator[None]:
    """Say of a full disk or a removed directory where it happened."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise CaptureError(
            "The trace cannot be written any further.",
            where=str(path),
            actual=str(error),
            next_step="Make room, or choose another path, and capture again.",
        ) from error


def _closed(path: Path) -> UsageError:
    return UsageError("The trace is closed already.", where=str(path), next_step="Open a new TraceWriter.")


def _make_room(path: Path, overwrite: bool) -> None:
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
