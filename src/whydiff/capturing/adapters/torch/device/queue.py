"""Fingerprints of tensors on a GPU, in line: the host notes addresses, and one launch reads many tensors.

Nothing waits for the device before `Queue.settle`. Until a tensor is read its memory is held, so that nobody else is
given it; how much is held is bounded (`PENDING_BYTES`). A tensor is read on the stream that was current when it was
noted. Whoever is about to write into memory that waits in line says so (`Queue.before_write`).
"""

from __future__ import annotations

import functools
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from whydiff.numbers.fingerprint import ML2_CHUNK, fingerprint_reference, keys

Lanes = tuple[int, int]

PENDING = 128
"""Tensors that one launch reads at most."""

PENDING_BYTES = 256 << 20
"""Bytes that may wait before they are read."""

_RING = 1 << 14
_TABLES = 64
_CHUNK_BYTES = 4 * ML2_CHUNK


_OWN = threading.local()
"""A thread's queue for what it asks at once: tables that travel to a device are made once."""

_cuda: Any = torch._C
in_graph: Callable[[], bool] = vars(_cuda).get("_cuda_isCurrentStreamCapturing", bool)
"""Whether a CUDA graph is recorded on this thread's stream: its ops are noted by CUDA and not carried out."""

_stream_of: Callable[[int], int] = vars(_cuda).get("_cuda_getCurrentRawStream", int)


class Pending:
    """Lanes that the device has not given yet.

    Attributes:
        lanes: None until `Queue.settle`.
    """

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        self.lanes: Lanes | None = None


_UNUSABLE = (ImportError, RuntimeError, OSError, ValueError, TypeError, AttributeError, subprocess.SubprocessError)
"""What Triton raises where it is missing, finds no compiler for its launcher, or knows the device too little."""


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernel runs on a device and is right there; else torch's own ops do the work, and wait for it."""
    if device.type != "cuda":
        return False
    trial = np.arange(40_001, dtype=np.uint8)
    try:
        found = lanes_now([(torch.from_numpy(trial).to(device), 1, trial.size)])
    except _UNUSABLE:
        return False
    return found == [fingerprint_reference(trial[1:])]


class Queue:
    """What one capture has in line; used by one thread at a time."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._held: set[int] = set()

    def add(self, tensor: torch.Tensor, low: int, high: int) -> Lanes | Pending | None:
        """Note the bytes ``[low, high)`` of a tensor's storage to be read.

        Returns:
            Whoever will have the lanes; None while a CUDA graph is recorded, when nothing runs.
        """
        if high <= low:
            return 0, 0
        if in_graph():
            return None
        line = self._lines.get(tensor.get_device())
        if line is None:
            line = self._lines[tensor.get_device()] = _Line(tensor.device)
        storage = tensor.untyped_storage()
        stream = _stream_of(line.index)
        if stream != line.stream:
            line.move(stream)
        ticket = Pending()
        line.tickets.append(ticket)
        line.rows.append((storage.data_ptr() + low, high - low))
        line.storages.append(storage)
        line.waiting += high - low
        self._held.add(storage._cdata)
        if len(line.tickets) >= PENDING or line.waiting >= PENDING_BYTES:
            self.flush()
        return ticket

    def before_write(self, key: int) -> None:
        """Memory (a storage's ``_cdata``) is about to be written: what waits for it is read first."""
        if key in self._held and not in_graph():
            self.flush()

    def flush(self) -> None:
        """Launch the reading of all that waits."""
        self._held.clear()
        for line in self._lines.values():
            line.flush()

    def send(self) -> None:
        """Launch the reading of all that waits, and have what is read copied: `settle` then waits for that alone."""
        self.flush()
        for line in self._lines.values():
            line.send()

    def settle(self) -> None:
        """Give every ticket its lanes; waits, once, for the copies that were sent, or for the devices."""
        self.flush()
        for line in self._lines.values():
            line.settle()


class _Line:
    """The line of one device: tickets, (address, bytes) and the memory of what waits, and on which stream."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.index = device, int(device.index)
        self.stream = _stream_of(device.index)
        self._several = False
        self._reading: deque[tuple[torch.cuda.Event, list[torch.UntypedStorage]]] = deque()
        self.tickets: list[Pending] = []
        self.rows: list[tuple[int, int]] = []
        self.storages: list[torch.UntypedStorage] = []
        self.waiting = 0
        self._given: list[tuple[torch.Tensor, list[Pending]]] = []
        self._spare: torch.Tensor | None = None
        self._sent: list[tuple[torch.Tensor, list[Pending], torch.cuda.Event]] = []
        self._turn = 0
        self._copied: list[torch.cuda.Event | None] = [None] * _TABLES
        self._tables: Any = None

    def move(self, stream: int) -> None:
        """Another stream is current: what waits is read on the one it was noted on."""
        self.flush()
        self.stream, self._several = stream, True

    def flush(self) -> None:
        """Launch the reading of all that waits on the stream it was noted on; another current stream goes on after it."""
        if not self.tickets:
            return
        with torch.cuda.device(self.device), torch.inference_mode(False):
            current = torch.cuda.current_stream()
            if current.cuda_stream == self.stream:
                self._launch()
            else:
                noted_on = stream_at(self.stream, self.device)
                with torch.cuda.stream(noted_on):
                    self._launch()
                current.wait_stream(noted_on)
                self._several = True
            if self._several:
                self._hold()
        self.tickets, self.rows, self.storages, self.waiting = [], [], [], 0

    def _hold(self) -> None:
        """Memory of one stream that another one reads is held until it was read: the allocator does not know of that."""
        event = torch.cuda.Event()
        event.record(stream_at(self.stream, self.device))
        self._reading.append((event, self.storages))
        while self._reading and self._reading[0][0].query():
            self._reading.popleft()

    def _launch(self) -> None:
        if self._tables is None:
            self._tables = _staging(self.device)
        from whydiff.capturing.adapters.torch.device import hashing

        pinned, lines, tables = self._tables
        rows = np.array(self.rows, dtype=np.int64)
        chunks = -(-rows[:, 1] // _CHUNK_BYTES)
        multipliers, chunk_keys = _keys_on(self.device, 1 << max(14, int(chunks.max() - 1).bit_length()))
        for start in range(0, len(rows), PENDING):
            part = rows[start : start + PENDING]
            results, first = self._results(self.tickets[start : start + PENDING])
            blocks = -(-chunks[start : start + PENDING] // hashing.CHUNKS)
            ends = blocks.cumsum()
            turn, copied = self._turn, self._copied[self._turn]
            if copied is not None:
                copied.synchronize()  # the copy of this table, many launches ago
            line = lines[turn, : len(part)]
            line[:, :2], line[:, 2], line[:, 3] = part, ends - blocks, np.arange(first, first + len(part))
            table = tables[turn]
            table.copy_(pinned[turn], non_blocking=True)
            copied = self._copied[turn] = copied or torch.cuda.Event()
            copied.record()
            hashing.launch(table, len(part), int(ends[-1]), multipliers, chunk_keys, results)
            self._turn = (turn + 1) % _TABLES

    def _results(self, tickets: list[Pending]) -> tuple[torch.Tensor, int]:
        """Rows of the ring for these tickets, and the number of the first."""
        if not self._given or len(self._given[-1][1]) + len(tickets) > _RING:
            ring, self._spare = self._spare, None
            ring = torch.zeros(_RING, 2, dtype=torch.int64, device=self.device) if ring is None else ring.zero_()
            self._given.append((ring, []))
        results, owners = self._given[-1]
        first = len(owners)
        owners += tickets
        return results, first

    def send(self) -> None:
        """Have the lanes that are read copied to the host, behind what reads them; nothing is waited for."""
        given, self._given = self._given, []
        noted_on = stream_at(self.stream, self.device)
        with torch.cuda.device(self.device), torch.cuda.stream(noted_on), torch.inference_mode(False):
            for results, tickets in given:
                copy = torch.empty(len(tickets), 2, dtype=torch.int64, device="cpu", pin_memory=True)
                copy.copy_(results[: len(tickets)], non_blocking=True)
                event = torch.cuda.Event()
                event.record()
                self._sent.append((copy, tickets, event))

    def settle(self) -> None:
        """Give every ticket its lanes."""
        sent, self._sent = self._sent, []
        for copy, tickets, event in sent:
            event.synchronize()
            _give(copy, tickets)
        if not self._given:
            return
        torch.cuda.synchronize(self.device)
        self._reading.clear()
        given, self._given = self._given, []
        for results, tickets in given:
            _give(results[: len(tickets)].cpu(), tickets)
            self._spare = results


def stream_at(handle: int, device: torch.device) -> Any:
    """The stream of a handle. The default stream's is 0, from which `ExternalStream` makes a stream of its own.

    What ran on that one waited for nothing: lanes were copied before they were read, and were zeros.
    """
    return torch.cuda.ExternalStream(handle, device=device) if handle else torch.cuda.default_stream(device)


def _give(lanes: torch.Tensor, tickets: Sequence[Pending]) -> None:
    for ticket, (first, second) in zip(tickets, lanes.numpy().view(np.uint64).tolist(), strict=True):
        ticket.lanes = first, second


def known(lanes: Lanes | Pending | None) -> Lanes | None:
    """The lanes themselves; after `Queue.settle`."""
    return lanes.lanes if isinstance(lanes, Pending) else lanes


def lanes_now(spans: Sequence[tuple[torch.Tensor, int, int]]) -> list[Lanes]:
    """Lanes of tensors on GPUs, waited for.

    Args:
        spans: (tensor, first byte in its storage, last byte + 1).
    """
    queue = (
        vars(_OWN).pop("queue", None) or Queue()
    )  # taken away while it is used: what fails in between is lost with it
    tickets = [queue.add(*span) for span in spans]
    queue.settle()
    _OWN.queue = queue
    return [lanes for lanes in map(known, tickets) if lanes is not None]


def _staging(device: torch.device) -> tuple[torch.Tensor, Any, torch.Tensor]:
    """Tables that travel to the device: pinned memory, the same as an array, and where they go."""
    pinned = torch.zeros(_TABLES, PENDING, 4, dtype=torch.int64, device="cpu", pin_memory=True)
    return pinned, pinned.numpy(), torch.zeros(_TABLES, PENDING, 4, dtype=torch.int64, device=device)


@functools.cache
def _keys_on(device: torch.device, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Multipliers in 32-bit halves, and the key schedule of tensors of up to so many chunks."""
    multipliers, chunk_keys = keys(chunks)
    halves = multipliers.view(np.uint32).reshape(2, ML2_CHUNK, 2).transpose(0, 2, 1).reshape(4, ML2_CHUNK)
    return (
        torch.from_numpy(halves.view(np.int32).copy()).view(torch.uint32).to(device),
        torch.from_numpy(chunk_keys.view(np.int64).copy()).to(device),
    )
