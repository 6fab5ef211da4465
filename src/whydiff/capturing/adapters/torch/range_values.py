"""What a range audit knows of the values in memory: magnitude, finiteness, and how they were made."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.torch.dtypes import dtype_name, not_comparable, plain
from whydiff.capturing.adapters.torch.storages import let_go, span_of
from whydiff.numbers.ranges import LIMITS, measure_address

_ROOM = 4096
"""Storages that are known before the dead ones among them are first looked for."""


class Known:
    """What is known of a storage's content; replaced, never changed, when an op writes there.

    Attributes:
        handle: weak reference that keeps the storage's identity from being used again.
        largest: largest finite magnitude.
        finite, nan: whether all is finite; whether a NaN is there.
        tainted: it carries an overflow.
        vanished: numbers that it depends on became zero.
        made: how it was made, as far as alarms ask (see `whydiff.capturing.adapters.torch.range_flow`).
    """

    __slots__ = ("finite", "handle", "largest", "made", "nan", "tainted", "vanished")

    def __init__(self, handle: Any, largest: float = 0.0, made: Any = None) -> None:
        self.handle, self.largest, self.made = handle, largest, made
        self.finite, self.nan, self.tainted, self.vanished = True, False, False, False


class Values:
    """Every storage that an op wrote or that was looked at, by identity."""

    def __init__(self) -> None:
        self.known: dict[int, Known] = {}
        self.limit = _ROOM
        self._finalizer = weakref.finalize(self, let_go, self.known)

    def look(self, tensor: torch.Tensor) -> Known:
        """What is known of a tensor about to be read; a value from outside is measured once."""
        if not_comparable(tensor):
            return Known(None)
        storage = tensor.untyped_storage()
        known = self.known.get(storage._cdata)
        if known is None:
            known = self.known[storage._cdata] = Known(storage._weak_ref())
            _measure(tensor, known)
        return known

    def prune(self) -> None:
        """Forget storages that nobody holds any more; to be called when ``limit`` is reached."""
        gone = [key for key, entry in self.known.items() if torch.UntypedStorage._expired(entry.handle)]
        for key in gone:
            torch.UntypedStorage._free_weak_ref(self.known.pop(key).handle)
        self.limit = max(_ROOM, 2 * len(self.known))

    def troubled(self) -> bool:
        """Whether a value that is still alive carries an overflow or depends on numbers that vanished."""
        return any(
            (entry.tainted or entry.vanished) and not torch.UntypedStorage._expired(entry.handle)
            for entry in self.known.values()
        )


def _measure(tensor: torch.Tensor, known: Known) -> None:
    if not tensor.numel() or dtype_name(tensor.dtype) not in LIMITS:
        return
    held, address = addressed(tensor)
    found = measure_address(address, held.numel(), dtype_name(held.dtype))
    known.largest, known.finite, known.nan = found.max_abs, found.finite, bool(found.nans)


def addressed(tensor: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A tensor (or a copy of it) whose elements lie without gaps in host memory, and where; the order is any."""
    if tensor.is_cpu and plain(tensor):
        if tensor.is_contiguous():
            return tensor, tensor.data_ptr()
        low, high, _ = span_of(tensor)
        if high - low == tensor.numel() * tensor.element_size():
            return tensor, tensor.data_ptr()
    with _disable_current_modes(), torch.no_grad():
        held = tensor.detach().cpu().contiguous()
    return held, held.data_ptr()
