"""Large tensors brought from a GPU to the host: through pinned memory, and into fresh memory by several threads.

A plain copy into memory that the process never touched is bound by one thread's page faults, an eighth of the bus.
"""

from __future__ import annotations

import torch

LARGE = 8 << 20
"""Bytes from which it pays."""

_PIECE = 32 << 20


def fetched(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the host, bit for bit, in row-major order.

    Args:
        tensor: without a lazy conjugation or negation.
    """
    if not tensor.is_cuda or tensor.nbytes < LARGE:
        return tensor.to("cpu", copy=True, memory_format=torch.contiguous_format)
    dense = tensor.contiguous()
    with torch.inference_mode(False), torch.cuda.device_of(dense):
        host = torch.empty(dense.shape, dtype=dense.dtype, device="cpu")
        there, here = dense.view(-1).view(torch.uint8), host.view(-1).view(torch.uint8)
        pieces = [torch.empty(_PIECE, dtype=torch.uint8, device="cpu", pin_memory=True) for _ in range(2)]
        waiting: list[tuple[torch.cuda.Event, torch.Tensor, torch.Tensor]] = []
        for turn, begin in enumerate(range(0, dense.nbytes, _PIECE)):
            part = here[begin : begin + _PIECE]
            pinned = pieces[turn % 2][: len(part)]
            pinned.copy_(there[begin : begin + _PIECE], non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            waiting.append((event, part, pinned))
            if turn:
                _arrived(*waiting.pop(0))
        _arrived(*waiting.pop())
    return host


def _arrived(event: torch.cuda.Event, part: torch.Tensor, pinned: torch.Tensor) -> None:
    event.synchronize()
    part.copy_(pinned)
