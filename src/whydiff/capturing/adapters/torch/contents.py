"""What tensors hold before a run that nobody watches, and the way back.

A capture copies a tensor only when an op is about to change it (`LiveLeaf`). A plain run tells nobody, and a write
that torch does not dispatch (through numpy, by a foreign kernel) tells no capture either. So before the first plain
run everything that the program reaches is copied; afterwards only what it changed is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from whydiff.capturing.adapters.torch.dtypes import not_comparable

_Kept = tuple[torch.UntypedStorage, torch.Tensor]


class Contents:
    """Copies of the memory behind tensors, on their device, else (no room) on the host."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        found: dict[int, torch.UntypedStorage] = {}
        for tensor in tensors:
            if not not_comparable(tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes():
                    found.setdefault(storage._cdata, storage)
        self._kept: list[_Kept] = [(storage, _copy(storage)) for storage in found.values()]

    def put_back(self) -> None:
        """Write back what changed, and forget what did not."""
        changed = []
        with torch.inference_mode(False), torch.no_grad():
            for storage, before in self._kept:
                resized = storage.nbytes() != before.numel()
                if resized:
                    storage.resize_(before.numel())
                now = _bytes(storage)
                if resized or not _equal(now, before.to(now.device)):
                    now.copy_(before)
                    changed.append((storage, before))
        self._kept = changed


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _equal(now: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether the bytes are the same; eight at a time where that divides them: a quarter of the time."""
    if all(held.numel() % 8 == 0 and held.data_ptr() % 8 == 0 for held in (now, before)):
        now, before = now.view(torch.int64), before.view(torch.int64)
    return torch.equal(now, before)


def _copy(storage: torch.UntypedStorage) -> torch.Tensor:
    now = _bytes(storage)
    try:
        return now.clone()
    except torch.cuda.OutOfMemoryError:
        return now.cpu()
