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
_REACH = 29
"""Keys of tensors up to two to the power of this many bytes are made at once."""
CHUNKS = 8
"""Chunks that one block of the kernel reads at once."""
BLOCK_BYTES = CHUNKS * _CHUNK_BYTES


_OWN = threading.local()
"""A thread's queue for what it asks at once: tables that travel to a device are made once."""

_cuda: Any = torch._C
in_graph: Callable[[], bool] = vars(_cuda).get("_cuda_isCurrentStreamCapturing", bool)
"""Whether a CUDA graph is recorded on this thread's stream: its ops are noted by CUDA and not carried out."""

_stream_of: Callable[[int], int] = vars(_cuda).get("_cuda_getCurrentRawStream", int)
_device_now: Callable[[], int] = vars(_cuda).get("_cuda_getDevice", int)


class Pending:
    """Lanes that the device has not given yet.

    Attributes:
        lanes: None until `Queue.settle`.
    """

    __slots__ = ("lanes",)

    def __init__(self) -> None:
        self.lanes: Lanes | None = None


UNUSABLE = (ImportError, RuntimeError, OSError, ValueError, TypeError, AttributeError, subprocess.SubprocessError)
"""What Triton raises where it is missing, finds no compiler for its launcher, or knows the device too little."""


@functools.cache
def usable(device: torch.device) -> bool:
    """Whether the kernel runs on a device and is right there; else torch's own ops do the work, and wait for it."""
    if device.type != "cuda":
        return False
    trial = np.arange(40_001, dtype=np.uint8)
    try:
        found = lanes_now([(torch.from_numpy(trial).to(device), 1, trial.size)])
    except UNUSABLE:
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
        nbytes = high - low
        if nbytes <= 0:
            return 0, 0
        storage = tensor.untyped_storage()
        self._held.add(storage._cdata)
        return self.note(storage, tensor.get_device(), storage.data_ptr() + low, nbytes)

    def note(self, owner: Any, index: int, address: int, nbytes: int) -> Pending | None:
        """`add` for who knows where the bytes lie, and does not write there before a flush.

        Args:
            owner: is held until they are read.
            index: of the device.
            address: of the first byte.
            nbytes: at least one.
        """
        stream = _stream_of(index)
        if stream and in_graph():  # never on the default stream
            return None
        line = self._lines.get(index)
        if line is None:
            line = self._lines[index] = _Line(torch.device("cuda", index))
        if stream != line.stream:
            line.move(stream)
        ticket = line.note(owner, address, nbytes)
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

    def settle(self) -> None:
        """Give every ticket its lanes; waits, once, for the devices."""
        self.flush()
        for line in self._lines.values():
            line.settle()


class _Tables:
    """Tables that travel to a device: pinned memory, and where each goes; taken in turn.

    Attributes:
        there: the table that was sent last, on the device.
    """

    def __init__(self, device: torch.device) -> None:
        pinned = torch.zeros(_TABLES, PENDING * 4, dtype=torch.int64, device="cpu", pin_memory=True)
        self._lines, self._pinned = pinned.numpy(), list(pinned)
        self._all = list(torch.zeros(_TABLES, PENDING * 4, dtype=torch.int64, device=device))
        self._turn = 0
        self._used: tuple[list[torch.cuda.Event], list[torch.cuda.Event]] = ([], [])
        self.there = self._all[0]

    def send(self, rows: Sequence[int]) -> None:
        """Send a table on the current stream."""
        turn, half = self._turn, 2 * self._turn // _TABLES
        if self._used[half] and 2 * turn % _TABLES == 0:
            for event in self._used[half]:
                event.synchronize()  # what read these tables, many launches ago
            self._used[half].clear()
        self._lines[turn, : len(rows)] = rows
        self.there = self._all[turn].copy_(self._pinned[turn], non_blocking=True)

    def launched(self) -> None:
        """What reads the table that was sent is launched."""
        if 2 * (self._turn + 1) % _TABLES == 0:
            self.mark(torch.cuda.current_stream())
        self._turn = (self._turn + 1) % _TABLES

    def mark(self, stream: Any) -> None:
        """Tables of this half were read on a stream."""
        event = torch.cuda.Event()
        event.record(stream)
        self._used[2 * self._turn // _TABLES].append(event)

    def settled(self) -> None:
        """The device has done all it was told."""
        for events in self._used:
            events.clear()


class _Line:
    """The line of one device: tickets, what they wait for, the memory of it, and on which stream.

    Attributes:
        rows: of the next launch's table (`hashing.COLUMNS`), one after the other.
        waiting, blocks, longest: bytes in line, blocks that read them, bytes of the longest.
        filled: rows of the ring that have an owner.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.index = device, int(device.index)
        self.stream = _stream_of(device.index)
        self._several = False
        self._reading: deque[tuple[torch.cuda.Event, list[Any]]] = deque()
        self.tickets: list[Pending] = []
        self.rows: list[int] = []
        self.owners: list[Any] = []
        self.waiting = self.blocks = self.longest = self.filled = 0
        self._given: list[tuple[torch.Tensor, list[Pending]]] = []
        self._spare: torch.Tensor | None = None
        self._tables: _Tables | None = None
        self._keys: Any = None
        self._reach = 0

    def note(self, owner: Any, address: int, nbytes: int) -> Pending:
        """Whoever will have the lanes of these bytes, whose memory the owner holds."""
        ticket = Pending()
        self.rows += (address, nbytes, self.blocks, self.filled)
        self.tickets.append(ticket)
        self.owners.append(owner)
        self.filled += 1
        self.waiting += nbytes
        self.blocks += -(-nbytes // BLOCK_BYTES)
        if nbytes > self.longest:
            self.longest = nbytes
        return ticket

    def move(self, stream: int) -> None:
        """Another stream is current: what waits is read on the one it was noted on."""
        self.flush()
        if self._tables is not None:
            self._tables.mark(stream_at(self.stream, self.device))
        self.stream, self._several = stream, True

    def flush(self) -> None:
        """Launch the reading of all that waits on the stream it was noted on; another current stream goes on after it."""
        if not self.tickets:
            return
        if self._several or _stream_of(self.index) != self.stream or _device_now() != self.index:
            with torch.cuda.device(self.device):
                self._launch_there()
        else:
            self._launch()
        self.tickets, self.rows, self.owners = [], [], []
        self.waiting = self.blocks = self.longest = 0

    def _launch_there(self) -> None:
        """Launch on the stream that is noted, which is perhaps not the current one."""
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

    def _hold(self) -> None:
        """Memory of one stream that another one reads is held until it was read: the allocator does not know of that."""
        event = torch.cuda.Event()
        event.record(stream_at(self.stream, self.device))
        self._reading.append((event, self.owners))
        while self._reading and self._reading[0][0].query():
            self._reading.popleft()

    def _launch(self) -> None:
        from whydiff.capturing.adapters.torch.device import hashing

        if self.longest > self._reach:
            self._keys = keys_reaching(self.device, self.longest)
            self._reach = self._keys[1].shape[1] // 2 * _CHUNK_BYTES
        tables = self._tables
        if tables is None:
            tables = self._tables = _tables_of(self.device)
        results, owners = self._results()
        tables.send(self.rows)
        hashing.launch(
            table=tables.there,
            count=len(self.tickets),
            blocks=self.blocks,
            chunks=CHUNKS,
            multipliers=self._keys[0],
            keys=self._keys[1],
            results=results,
        )
        tables.launched()
        owners += self.tickets
        if self.filled + PENDING > _RING:
            self.filled = 0

    def _results(self) -> tuple[torch.Tensor, list[Pending]]:
        """The ring that the tickets in line have rows of, and the owners of its rows before theirs."""
        if self.filled == len(self.tickets):  # they are its first
            ring, self._spare = self._spare, None
            with torch.inference_mode(False):
                ring = torch.zeros(_RING, 2, dtype=torch.int64, device=self.device) if ring is None else ring.zero_()
            self._given.append((ring, []))
        return self._given[-1]

    def settle(self) -> None:
        """Give every ticket its lanes."""
        if not self._given:
            return
        torch.cuda.synchronize(self.device)
        self._reading.clear()
        if self._tables is not None:
            self._tables.settled()
            _TABLES_OF.setdefault(self.index, []).append(self._tables)
            self._tables = None
        given, self._given, self.filled = self._given, [], 0
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


_TABLES_OF: dict[int, list[_Tables]] = {}
"""Of each device, what nobody uses now: to make one takes as long as many launches."""


def _tables_of(device: torch.device) -> _Tables:
    """Tables that nobody else uses."""
    spare = _TABLES_OF.get(device.index)
    try:
        return spare.pop() if spare else _made(device)
    except IndexError:  # another thread took the last
        return _made(device)


def _made(device: torch.device) -> _Tables:
    with torch.inference_mode(False):
        return _Tables(device)


def keys_reaching(device: torch.device, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Multipliers and key schedule, as `hashing.launch` takes them, of tensors of up to ``longest`` bytes and more."""
    return _keys_on(device, (1 << max(_REACH, (longest - 1).bit_length())) // _CHUNK_BYTES)


@functools.cache
def _keys_on(device: torch.device, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Multipliers in 32-bit halves, and the key schedule of tensors of up to so many chunks."""
    multipliers, chunk_keys = keys(chunks)
    halves = multipliers.view(np.uint32).reshape(2, ML2_CHUNK, 2).transpose(0, 2, 1).reshape(4, ML2_CHUNK)
    with torch.inference_mode(False):
        return (
            torch.from_numpy(halves.view(np.int32).copy()).view(torch.uint32).to(device),
            torch.from_numpy(chunk_keys.view(np.int64).copy()).to(device),
        )
