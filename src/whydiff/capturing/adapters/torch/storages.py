"""Identity and fingerprints of storages while a run goes on.

A storage is known by its ``StorageImpl``; a weak reference is held so that its address cannot be reused by
another storage. Fingerprints are cached per byte span and dropped when an op writes to the storage, so a
weight that a hundred ops read is hashed once, and what an op read is what it was when it was read.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch

from whydiff.capturing.adapters.torch.device.queue import Pending, Queue, in_graph, usable
from whydiff.capturing.adapters.torch.fingerprints import content_lanes, row_major, span_lanes

Lanes = tuple[int, int] | Pending | None
"""Fingerprint lanes: known, or in line to be read; None inside a CUDA graph that is being recorded."""

FRESH, FRESH_BYTES = 512, 32 << 20
"""New storages that are looked at together for those that are gone: what is known of one pins a few bytes beside its
memory, so that the allocator could not use that again.
"""

PATIENCE = 4
"""Looks at memory on loan that find nothing, one read after the other, before reads in between are let go by."""


class Lent:
    """Memory that others may write to: numpy, a library that has its address, another framework.

    Attributes:
        arrays: how many arrays show it.
        kept: somebody may have it for ever.
        missed: reads since it was looked at last.
    """

    __slots__ = ("_same", "arrays", "kept", "missed")

    def __init__(self, kept: bool = False) -> None:
        self.arrays, self.kept, self.missed = 0, kept, 0
        self._same = 0

    def soon(self) -> None:
        """It is lent (again): the next reads are looked at."""
        self._same = 0

    def due(self, always: bool) -> bool:
        """Whether to look at what is read now; after a few looks that found nothing, each doubles the reads until the next."""
        if always or self.missed >= (1 << max(0, self._same - PATIENCE)) - 1:
            return True
        self.missed += 1
        return False

    def looked(self, found: bool) -> None:
        """It was looked at."""
        self._same, self.missed = 0 if found else self._same + 1, 0


class Storage:
    """What is known of one storage during one capture.

    Attributes:
        spans: lanes of the bytes ``[low, high)``, until an op writes to the storage.
        rows: the same, by how a tensor looks at the storage (`Layout.key`): what is written down when it is read.
        device: it lies on a GPU.
        pending: what collectives write here and nobody looked at yet (`arriving.Arrival`).
        lent: others may write here; None: torch alone does, as far as is known.
    """

    __slots__ = (
        "device",
        "handle",
        "initialised",
        "leaves",
        "lent",
        "number",
        "pending",
        "producer",
        "rows",
        "shown",
        "spans",
        "written",
    )

    def __init__(self, number: int, handle: Any, producer: int, device: bool = False) -> None:
        self.number, self.device = number, device
        self.handle = handle
        self.producer = producer
        self.spans: dict[tuple[int, int], Lanes] = {}
        self.rows: dict[Any, tuple[Any, ...]] = {}
        self.leaves: tuple[Any, ...] = ()
        self.shown: tuple[tuple[int, int], ...] = ()
        self.pending: tuple[Any, ...] = ()
        self.lent: Lent | None = None
        self.initialised = True
        self.written = False

    def forget(self) -> None:
        """An op writes here: what was known of the content holds no more."""
        self.spans.clear()
        self.rows.clear()

    def covers(self, low: int, high: int) -> bool:
        """Whether one leaf's look at this storage includes the bytes ``[low, high)``."""
        return any(begin <= low and high <= end for begin, end in self.shown)


class Storages:
    """All storages seen in one capture.

    Attributes:
        known: by the address of their ``StorageImpl``.
        queue: what waits to be read on devices.
    """

    def __init__(self) -> None:
        self.known: dict[int, Storage] = {}
        self.count = 0
        self.nowhere = Storage(-1, None, -1)
        self.queue = Queue()
        self._queued: dict[int, bool] = {}
        self._fresh: list[int] = []
        self._fresh_bytes = 0
        self._finalizer = weakref.finalize(self, let_go, self.known)

    def of(self, tensor: torch.Tensor) -> Storage | None:
        """The storage of a tensor if it was seen before."""
        return self.known.get(tensor.untyped_storage()._cdata)

    def add(self, tensor: torch.Tensor, producer: int) -> Storage:
        """Begin to know a tensor's storage; ``producer`` -1 for what existed before."""
        storage = tensor.untyped_storage()
        return self.begin(storage, storage._cdata, producer, tensor.is_cuda)

    def begin(self, storage: torch.UntypedStorage, key: int, producer: int, device: bool) -> Storage:
        """`add` for who has looked the storage up."""
        known = self.known[key] = Storage(self.count, storage._weak_ref(), producer, device)
        self.count += 1
        self._fresh.append(key)
        self._fresh_bytes += storage.nbytes()
        if self._fresh_bytes > FRESH_BYTES or len(self._fresh) > FRESH:
            self._forget_gone(self._fresh)
            self._fresh, self._fresh_bytes = [], 0
        return known

    def read(self, tensor: torch.Tensor, low: int, high: int) -> Lanes:
        """Lanes of the bytes ``[low, high)`` of a tensor's storage."""
        if tensor.is_cpu:
            return span_lanes(tensor, low, high)
        index = tensor.get_device()
        queued = self._queued.get(index)
        if queued is None and not in_graph():
            queued = self._queued[index] = usable(tensor.device)
        if queued:
            return self.queue.add(tensor, low, high)
        return None if in_graph() else span_lanes(tensor, low, high)

    def read_content(self, tensor: torch.Tensor) -> Lanes:
        """Lanes of a tensor's elements in row-major order; copies it if it is not laid out so."""
        return content_lanes(tensor) if tensor.is_cpu else self.read(*row_major(tensor))

    def forget_devices(self, producer: int) -> None:
        """Something wrote to memory of a device, and nobody knows to which: what an op made is made by it from now on."""
        for known in self.known.values():
            if known.device:
                known.forget()
                if known.producer >= 0:
                    known.producer = producer

    def forget(self) -> None:
        """Something wrote nobody knows where: what is known of any content holds no more."""
        for entry in self.known.values():
            entry.forget()

    def prune(self) -> None:
        """Forget storages that nobody holds any more."""
        self._forget_gone(list(self.known))

    def _forget_gone(self, keys: list[int]) -> None:
        for key in keys:
            entry = self.known.get(key)
            if entry is not None and torch.UntypedStorage._expired(entry.handle):
                torch.UntypedStorage._free_weak_ref(self.known.pop(key).handle)

    def clear(self) -> None:
        """Let go of every weak reference."""
        let_go(self.known)


def let_go(known: dict[int, Any]) -> None:
    """Forget entries that hold a storage by its weak ``handle``."""
    for entry in known.values():
        torch.UntypedStorage._free_weak_ref(entry.handle)
    known.clear()


def span_of(tensor: torch.Tensor) -> tuple[int, int, bool]:
    """First byte, last byte + 1 within the storage, and whether the span is the row-major content."""
    size = tensor.element_size()
    low = int(tensor.storage_offset()) * size
    if tensor.is_contiguous():
        return low, low + tensor.numel() * size, True
    extent = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        if length == 0:
            return low, low, True
        extent += (length - 1) * stride
    return low, low + extent * size, False


Span = tuple[int, int, bool]


class Layout:
    """How tensors look at their storage: one object for all that are laid out alike.

    Attributes:
        spec: shape, dtype, device, strides, offset.
        span: `span_of` such a tensor.
        place, dense: the same, apart.
        nbytes: from the first byte to the last.
        size: bytes of the content.
        key: a number of its own, which is found faster than five values.
    """

    __slots__ = ("dense", "key", "nbytes", "place", "size", "span", "spec")

    def __init__(self, spec: tuple[Any, ...], tensor: torch.Tensor, key: int) -> None:
        self.spec, self.span, self.key = spec, span_of(tensor), key
        self.place, self.dense = self.span[:2], self.span[2]
        self.nbytes, self.size = self.span[1] - self.span[0], tensor.numel() * tensor.element_size()


def read_lanes(
    tensor: torch.Tensor, storages: Storages, known: Storage, span: Span | None = None
) -> tuple[Lanes, int, bool, bool]:
    """Fingerprint lanes of what a tensor shows now, bytes read, whether of its content, whether known before.

    Raises nothing; the caller has checked `not_comparable`, and may know the `span_of` the tensor.
    """
    low, high, dense = span or span_of(tensor)
    lanes: Lanes = known.spans.get((low, high))
    if lanes is not None:
        return lanes, high - low, dense, True
    lanes = storages.read(tensor, low, high)
    if lanes is not None:
        known.spans[low, high] = lanes
    return lanes, high - low, dense, False


def written_lanes(
    tensor: torch.Tensor, storages: Storages, known: Storage, span: Span | None = None
) -> tuple[Lanes, int, bool]:
    """Fingerprint lanes of a fresh or changed tensor's content in row-major order, bytes, whether it lies so."""
    low, high, dense = span or span_of(tensor)
    if not dense:
        return storages.read_content(tensor), tensor.numel() * tensor.element_size(), False
    lanes = storages.read(tensor, low, high)
    if lanes is not None:
        known.spans[low, high] = lanes
    return lanes, high - low, True
