"""Write a trace: records as they come, durable at every step's end, bounded memory for payloads."""

from __future__ import annotations

import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from whydiff.capturing.holes import MOST, Holes, lost
from whydiff.capturing.sink import Sink
from whydiff.capturing.store.dtypes import as_saved
from whydiff.capturing.store.encode import IndexEncoder, line
from whydiff.capturing.store.exchanges import ExchangeFile
from whydiff.capturing.store.layout import INDEX, RESERVE, SHARD_BYTES, TEMPORARY, make_room, shard_name
from whydiff.capturing.store.manifest import NOT_CHECKED, Manifest, write_manifest
from whydiff.capturing.store.own import wrote
from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.capturing.store.waiting import At, Waiting, check_payload, write_shard
from whydiff.errors import CaptureError, UsageError, one_line
from whydiff.records import Call, Environment, Hole, Leaf, ObserverCheck, Output, Payload

_LOG = logging.getLogger("whydiff")


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
        max_bytes: payloads beyond this are left out.
        tolerant: a full disk ends the recording and raises nothing; what is added twice counts once.

    Attributes:
        why_ended: why nothing more could be written; empty if all went well.

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
        max_bytes: int = sys.maxsize,
        tolerant: bool = False,
    ) -> None:
        self.path = Path(path)
        self._manifest = Manifest(framework, level, captured=captured or {}, environment=environment or Environment())
        self._shard_bytes, self._tolerant, self._max_bytes = shard_bytes, tolerant, max_bytes
        self._encoder, self._exchanges = IndexEncoder(), ExchangeFile(self.path)
        self._at = At()
        self._marked = self._at
        self._keys: set[str] = set()
        self._waiting = Waiting()
        self._left_out = Holes()
        self._closed = False
        self._process = os.getpid()
        self.why_ended = ""
        try:
            make_room(self.path, overwrite)
            write_manifest(self.path, self._manifest)
            self._index = open(self.path / INDEX, "xb", buffering=0)  # noqa: SIM115
            if tolerant:  # room for saying that there was none
                (self.path / (INDEX + TEMPORARY)).write_bytes(bytes(RESERVE))
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
        if error is None and not self._closed:
            self.close()
        elif error is not None and not self._closed:
            note = f"the capture ended with {type(error).__name__}: {error}".rstrip(": ")
            self._finish(replace(self._manifest, note=note, observer=replace(NOT_CHECKED, note="ended early")))

    @property
    def ended(self) -> bool:
        """Nothing more can be written (the disk is full, the process is a forked child): what is given is dropped."""
        return self._gone()

    def _gone(self) -> bool:
        return bool(self.why_ended) or os.getpid() != self._process

    @property
    def leaves_taken(self) -> int:
        """How many leaves were written."""
        return self._at.leaves

    @property
    def contexts_taken(self) -> int:
        """How many contexts were written."""
        return self._at.contexts

    def _commit(self, encode: Callable[[], bytes], **change: int) -> None:
        """Append lines, or do nothing: what an interrupt left half written is taken back before the next lines.

        Args:
            encode: gives the lines.
            change: what the counts are once they are written.
        """
        if self._closed:
            raise UsageError("The trace is closed already.", where=str(self.path), next_step="Open a new TraceWriter.")
        if self._gone():
            return
        at = self._at
        if self._encoder.tables != (at.strings, at.specs):
            self._encoder.forget(at.strings, at.specs)
        data = encode()
        with self._recording(self.path):
            if os.fstat(self._index.fileno()).st_size != at.size:
                self._index.truncate(at.size)
                self._index.seek(at.size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._index.write(rest) or 0 :]
        if not self._gone():
            strings, specs = self._encoder.tables
            crc = zlib.crc32(data, at.crc)
            self._at = at._replace(size=at.size + len(data), crc=crc, strings=strings, specs=specs, **change)

    def add_calls(self, calls: Sequence[Call]) -> None:
        """Add calls in execution order; the contexts that they name come first (none: one empty context).

        Calls that were added before (by who was interrupted, and adds them again) are passed over.

        Raises:
            CaptureError: a call's index is not its position, it names a context that was not added, or a
                record cannot be written.
        """
        if not self._at.contexts:
            self.add_contexts([{}])
        fresh = [call for call in calls if call.index >= self._at.calls] if self._tolerant else calls
        for position, call in enumerate(() if self._gone() else fresh, self._at.calls):
            if call.index != position:
                raise CaptureError(
                    "A call's index is not its position.",
                    where=str(call.site),
                    actual=str(call.index),
                    expected=str(position),
                )
            if not 0 <= call.context < self._at.contexts:
                raise CaptureError(
                    "A call names a context that was not added.",
                    where=str(call.site),
                    actual=str(call.context),
                    expected=f"below {self._at.contexts}",
                    next_step="Add contexts before the calls that name them.",
                )
        self._commit(lambda: self._encoder.calls(fresh), calls=self._at.calls + len(fresh))

    def add_leaves(self, leaves: Sequence[Leaf]) -> None:
        """Add leaves; they may come before or after the calls that read them.

        Raises:
            CaptureError: a record cannot be written.
        """
        self._commit(lambda: self._encoder.leaves(leaves), leaves=self._at.leaves + len(leaves))

    def add_contexts(self, contexts: Sequence[Mapping[str, Any]]) -> None:
        """Add contexts (flags in force); calls name them by position.

        Raises:
            CaptureError: a value that JSON cannot carry.
        """
        self._commit(lambda: self._encoder.contexts(contexts), contexts=self._at.contexts + len(contexts))

    def add_payload(self, key: str, payload: Payload) -> bool:
        """Add a full tensor; its bits are copied where needed, so the caller may reuse the memory at once.

        Returns:
            whether it is kept: False beyond the budget, and when nothing more can be written.

        Raises:
            CaptureError: the key is empty, reserved or taken, or the bits do not have the payload's dtype.
        """
        taken = key in self._keys or key in self._waiting
        if taken and self._tolerant:
            return True  # by who was interrupted, and adds it again
        check_payload(key, payload, taken)
        if self._gone():
            return False
        size = payload.bits.nbytes
        if self._at.payload_bytes + self._waiting.nbytes + size > self._max_bytes:
            self._left_out.add("left out", "full tensors beyond the budget on disk", key)
            return False
        if self._waiting and self._waiting.nbytes + size > self._shard_bytes:
            self._close_shard()
        if size > self._shard_bytes:
            self._write_uncopied(key, payload)
        else:
            self._waiting.put(key, payload)
        return not self._gone()

    def _write_uncopied(self, key: str, payload: Payload) -> None:
        """Write a large tensor at once; whatever interrupts that, nobody looks at its memory afterwards."""
        shards = self._at.shards
        try:
            self._waiting.put(key, payload, copy=False)
            self._close_shard()
        finally:
            if self._at.shards > shards:
                self._keys.add(key)
            self._waiting.drop([key])

    def _close_shard(self) -> None:
        if not self._waiting or self._gone():
            return
        number, waiting = self._at.shards, self._waiting.held()
        path = self.path / shard_name(number)
        temporary = path.with_name(path.name + TEMPORARY)
        with self._recording(path):
            write_shard(temporary, {key: as_saved(tensor.bits) for key, tensor in waiting.items()})
            header = SafetensorsFile(temporary)
            os.replace(temporary, path)
            rows: list[list[Any]] = [["shard", number, header.size, header.header_crc32]]
            for key, (bits, stored, dtype, _) in waiting.items():
                rows.append(["payload", key, dtype, stored, list(bits.shape), number, zlib.crc32(header.slice(key))])
        if self._gone():
            return
        self._commit(
            lambda: b"".join(line(row) for row in rows),
            shards=number + 1,
            payloads=self._at.payloads + len(waiting),
            payload_bytes=self._at.payload_bytes + sum(tensor.bits.nbytes for tensor in waiting.values()),
        )
        self._keys.update(waiting)
        self._waiting.drop(waiting)

    def _mark(self, word: str, steps: int) -> None:
        self._close_shard()
        if not self._at.contexts:
            self.add_contexts([{}])
        at = self._at
        counts = [steps, at.calls, at.leaves, at.contexts, at.payloads, at.shards]
        self._commit(lambda: line([word, *counts]), steps=steps, finished=int(word == "end"))
        if not self._gone():
            self._marked = self._at

    def end_step(self) -> None:
        """End a step: everything added so far survives the death of this process."""
        self._mark("step", self._at.steps + 1)

    def mark(self) -> None:
        """Everything added so far survives the death of this process; the step goes on."""
        if self._marked != self._at or self._waiting:
            self._mark("mark", self._at.steps)

    def about_to_exchange(self, call: Call) -> None:
        """Note a collective before it begins: should it never end, this rank's part says where it waits."""
        if not self._gone():
            with self._recording(self.path):
                self._exchanges.add(call)

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
        holes: Sequence[Hole] = (),
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
            holes: what was met and not recorded; a trace with a hole behind which numbers went by is not complete.
            outputs: what the run gave back; their bits are payloads under `payload_key`, if they are kept.

        Raises:
            UsageError: closed already.
            CaptureError: a value that JSON cannot carry.
        """
        if observer is NOT_CHECKED:
            observer = replace(NOT_CHECKED, note="the observer check was not run")
        self._finish(
            Manifest(
                self._manifest.framework,
                self._manifest.level,
                complete=complete and not lost(holes),
                note="; ".join(part for part in (note, lost(holes)) if part),
                holes=tuple(holes),
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
        if os.getpid() != self._process:  # a forked child: the trace is its parent's
            self._closed = True
            return
        if self._closed:
            raise UsageError("The trace is closed already.", where=str(self.path), next_step="Open a new TraceWriter.")
        manifest = replace(manifest, holes=(*manifest.holes, *self._left_out.all()))
        if self.why_ended:
            self._finish_short(manifest)
            return
        (self.path / (INDEX + TEMPORARY)).unlink(missing_ok=True)
        with self._recording(self.path):
            # First as still open: if a value cannot be written, the trace can be closed again without it.
            write_manifest(self.path, replace(manifest, complete=False))
            if not self._at.finished:
                self._mark("end", self._at.steps)
            if not self._gone():
                os.fsync(self._index.fileno())
                self._index.close()
                self._closed = True
                closing = replace(manifest, closed=True, index_bytes=self._at.size, index_crc32=self._at.crc)
                write_manifest(self.path, closing)
                wrote(self.path)
        if not self._closed:
            self._finish_short(manifest)

    def _finish_short(self, manifest: Manifest) -> None:
        """Close a trace that could not be written to its end: it holds what was whole, and says why."""
        self._closed = True
        holes = (*manifest.holes[:MOST], Hole("ended", self.why_ended))
        try:
            self._index.close()
            write_manifest(self.path, replace(self._manifest, note=f"ended early, {self.why_ended}", holes=holes))
        except OSError as error:
            _LOG.warning("the trace at %s ends early and cannot say so: %s", self.path, error)

    @contextmanager
    def _recording(self, path: Path) -> Iterator[None]:
        """Say of a full disk or a removed directory where it happened; or end the recording, not the program."""
        try:
            yield
        except OSError as error:
            if not self._tolerant:
                raise CaptureError(
                    "The trace cannot be written any further.",
                    where=str(path),
                    actual=str(error),
                    next_step="Make room, or choose another path, and capture again.",
                ) from error
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Nothing more can be written: keep what was whole, and make room for saying so."""
        self.why_ended = one_line(error)
        self._waiting = Waiting()
        try:
            for name in os.listdir(self.path):
                if name.endswith(TEMPORARY) or name == shard_name(self._marked.shards):
                    (self.path / name).unlink()
            self._index.truncate(self._marked.size)
        except OSError as another:
            self.why_ended += f"; {one_line(another)}"
