"""Fingerprints of many tensors on a GPU that stay as they are for now, by one launch whose results nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.device.queue import BLOCK_BYTES, CHUNKS, keys_reaching


class Batch:
    """Lanes of many tensors on one GPU, read on the current stream and sent to the host behind that.

    Args:
        device: one that `whydiff.capturing.adapters.torch.device.queue.usable` knows.
        addresses: of the first byte of each. The memory is not held: what writes there next, or gives it back, does so on
            this stream or after it.
        sizes: bytes of each.
    """

    def __init__(self, device: torch.device, addresses: Sequence[int], sizes: Sequence[int]) -> None:
        from whydiff.capturing.adapters.torch.device import hashing

        count = len(addresses)
        rows = np.empty((count, hashing.COLUMNS), dtype=np.int64)
        rows[:, 0], rows[:, 1], rows[:, 3] = addresses, sizes, np.arange(count)
        blocks = -(-rows[:, 1] // BLOCK_BYTES)
        rows[:, 2] = np.cumsum(blocks) - blocks
        with torch.cuda.device(device), torch.inference_mode(False):
            table = torch.empty(rows.size, dtype=torch.int64, device="cpu", pin_memory=True)
            table.numpy()[:] = rows.reshape(-1)
            results = torch.zeros(count, 2, dtype=torch.int64, device=device)
            if blocks.any():
                multipliers, keys = keys_reaching(device, max(sizes))
                hashing.launch(
                    table=table.to(device, non_blocking=True),
                    count=count,
                    blocks=int(blocks.sum()),
                    chunks=CHUNKS,
                    multipliers=multipliers,
                    keys=keys,
                    results=results,
                )
            self._copy = torch.empty(count, 2, dtype=torch.int64, device="cpu", pin_memory=True)
            self._copy.copy_(results, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def lanes(self) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Both lanes of each tensor, uint64 ``(n, 2)``; waits for what reads them, and for nothing behind it."""
        self._event.synchronize()
        found: np.ndarray[Any, np.dtype[np.uint64]] = self._copy.numpy().view(np.uint64)
        return found


__all__ = ["Batch"]
