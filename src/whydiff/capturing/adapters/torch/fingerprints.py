"""ML2 fingerprints of torch tensors, now: host memory by address, device memory where it lies.

A capture queues those of device memory instead (`whydiff.capturing.adapters.torch.device.queue`).

Formula and keys: `whydiff.numbers.fingerprint`. Integer sums modulo 2⁶⁴ are associative, so the device's reduction
order does not matter; nothing is copied to the host but the two lanes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from whydiff.capturing.adapters.torch.device.queue import lanes_now, usable
from whydiff.capturing.adapters.torch.dtypes import address, raw, seen_by_numpy
from whydiff.numbers.fingerprint import ML2_CHUNK, fingerprint_address, fingerprint_addresses, fingerprint_bytes, keys

Lanes = tuple[int, int]
_CHUNKS_AT_ONCE = 512
_SMALL = 4 << 20
_ONE_THREAD = 1 << 15
"""Elements up to which torch copies with one thread (``at::internal::GRAIN_SIZE``)."""


def span_lanes(tensor: torch.Tensor, low: int, high: int) -> Lanes:
    """Lanes of the bytes ``[low, high)`` of a tensor's storage."""
    if tensor.is_cpu:
        return fingerprint_address(tensor.untyped_storage().data_ptr() + low, high - low)
    if usable(tensor.device):
        return lanes_now([(tensor, low, high)])[0]
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(
        tensor.untyped_storage(), low, (high - low,), (1,)
    )
    return device_lanes(flat)


def spans_lanes(spans: Sequence[tuple[torch.Tensor, int, int]]) -> list[Lanes]:
    """`span_lanes` of many tensors: those in host memory are read by several threads, a GPU's by one launch."""
    host = [i for i, (tensor, _, _) in enumerate(spans) if tensor.is_cpu]
    queued = [i for i, (tensor, _, _) in enumerate(spans) if not tensor.is_cpu and usable(tensor.device)]
    found: list[Any] = [None] * len(spans)
    for i, lanes in zip(queued, lanes_now([spans[i] for i in queued]) if queued else (), strict=True):
        found[i] = lanes
    for i in sorted({*range(len(spans))} - {*host, *queued}):
        found[i] = span_lanes(*spans[i])
    addresses = [(spans[i][0].untyped_storage().data_ptr() + spans[i][1], spans[i][2] - spans[i][1]) for i in host]
    for i, lanes in zip(host, fingerprint_addresses(addresses), strict=True):
        found[i] = lanes
    return found


def content_lanes(tensor: torch.Tensor) -> Lanes:
    """Lanes of a tensor's elements in row-major order; copies it if it is not laid out so."""
    dense = raw(tensor.detach())
    if dense.is_contiguous() or not dense.is_cpu:
        return span_lanes(*row_major(dense))
    if dense.numel() < _ONE_THREAD:
        dense = dense.contiguous()
        return fingerprint_address(address(dense), dense.nbytes)
    if dense.nbytes <= _SMALL:
        # one thread: to start the program's own thread team for a small copy costs more than the copy
        return fingerprint_bytes(np.ascontiguousarray(seen_by_numpy(dense))).lanes
    return span_lanes(*row_major(dense))


def row_major(tensor: torch.Tensor) -> tuple[torch.Tensor, int, int]:
    """A tensor's elements in row-major order (the tensor itself if it lies so), and which bytes of the storage they are."""
    straight = tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
    dense = tensor if straight else raw(tensor.detach()).contiguous()
    size = dense.element_size()
    low = int(dense.storage_offset()) * size
    return dense, low, low + dense.numel() * size


@functools.cache
def _device_keys(device: torch.device, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    multipliers, chunk_keys = keys(chunks)
    return (
        torch.from_numpy(multipliers.view("i8").copy()).to(device),
        torch.from_numpy(chunk_keys.view("i8").copy()).to(device),
    )


def device_lanes(flat: torch.Tensor) -> Lanes:
    """Lanes of a flat uint8 tensor, computed where it lies with int64 arithmetic (which wraps mod 2⁶⁴)."""
    nbytes = flat.numel()
    words = -(-nbytes // 4)
    chunks = max(1, -(-words // ML2_CHUNK))
    multipliers, chunk_keys = _device_keys(flat.device, chunks)
    total = chunk_keys[:, 0] * nbytes
    for start in range(0, chunks, _CHUNKS_AT_ONCE):
        stop = min(chunks, start + _CHUNKS_AT_ONCE)
        part = flat[start * ML2_CHUNK * 4 : stop * ML2_CHUNK * 4]
        padded = torch.zeros((stop - start) * ML2_CHUNK * 4, dtype=torch.uint8, device=flat.device)
        padded[: part.numel()] = part
        word = (padded.view(torch.int32).to(torch.int64) & 0xFFFFFFFF).view(stop - start, ML2_CHUNK)
        for lane in range(2):
            dots = (word * multipliers[lane]).sum(1)
            low, high = dots & 0xFFFFFFFF, (dots >> 32) & 0xFFFFFFFF
            odd = chunk_keys[lane, 1 + 2 * start : 1 + 2 * stop : 2]
            even = chunk_keys[lane, 2 + 2 * start : 2 + 2 * stop : 2]
            total[lane] += (odd * low + even * high).sum()
    first, second = (int(v) & 0xFFFFFFFFFFFFFFFF for v in total.cpu().tolist())
    return first, second
