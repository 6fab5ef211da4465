"""ML2, the fingerprint of a tensor's bytes: two independent 64-bit lanes, one memory read.

Definition, all arithmetic modulo 2**64. The bytes are zero-padded to whole little-endian uint32 words ``w``
and cut into chunks of ``B = ML2_CHUNK`` words. For each lane with multipliers ``m`` and chunk keys ``k``::

    D_c = sum_j m[j] * w[c * B + j]                                               (inner, one per chunk)
    H   = k[0] * nbytes + sum_c k[2c + 1] * (D_c mod 2**32) + k[2c + 2] * (D_c div 2**32)

``m`` and ``k`` are the outputs of splitmix64 (Steele, Lea, Flood, OOPSLA 2014; constants of Vigna's
public-domain ``splitmix64.c``) seeded with the first 64-bit words of the fraction of pi, one seed per lane
and table. The sums are multilinear hashing (Lemire, Kaser, "Strongly universal string hashing is fast",
Computer Journal 57(11), 2014). Two different buffers of one length collide in a lane with probability
<= 2**-32 (worst case: the differences are sign bits only; 2 * 2**-33 for the two levels), in both lanes with
<= 2**-64.
Integer sums are associative: any order of reduction, any number of threads and atomics give the same value.

The keys are fixed and public: a fingerprint tells accidents apart, it is no defence against a forger.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whydiff.errors import UsageError
from whydiff.numbers.kernels import kernel_of
from whydiff.numbers.kernels import threads as _threads
from whydiff.records import Fingerprint

ML2_CHUNK = 8192
"""Words (of 4 bytes) per chunk."""

MULTIPLIER_SEEDS = (0x243F6A8885A308D3, 0xA4093822299F31D0)
"""Seeds of ``m``, per lane: 64-bit words 0 and 2 of the fraction of pi."""

KEY_SEEDS = (0x13198A2E03707344, 0x082EFA98EC4E6C89)
"""Seeds of ``k``, per lane: 64-bit words 1 and 3 of the fraction of pi."""

PARALLEL_FROM = 8 << 20
"""Bytes from which a buffer is shared among threads: speed only, never the value (waking a thread costs about
50 microseconds, in which one core reads 2 MiB; ``docs/explanation/fingerprint.md``)."""

_MASK = (1 << 64) - 1
_CHUNK_BYTES = 4 * ML2_CHUNK
_REFERENCE_CHUNKS = 32
_PART_CHUNKS = 32  # 1 MiB: what one thread reads at a time

_NUMPY_CALL, _NUMPY_BYTE, _NUMBA_LOADS = 30e-6, 2e-9, 0.4
"""Seconds: of a fingerprint in plain numpy, of each of its bytes, and of loading numba (speed only, never the value)."""

_spent = 0.0
_ml2: Callable[..., tuple[int, int]] | None = None
_constants: tuple[int, int, int] = (0, 0, 0)


def splitmix64(seed: int, count: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The first ``count`` outputs of splitmix64 from ``seed``: uint64, shape ``(count,)``."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@functools.cache
def _multipliers() -> np.ndarray[Any, np.dtype[np.uint64]]:
    table = np.stack([splitmix64(seed, ML2_CHUNK) for seed in MULTIPLIER_SEEDS])
    table.flags.writeable = False
    return table


def keys(chunks: int) -> tuple[np.ndarray[Any, np.dtype[np.uint64]], np.ndarray[Any, np.dtype[np.uint64]]]:
    """The key schedule, for adapters that compute ML2 on a device.

    Args:
        chunks: number of chunks, ``ceil(nbytes / (4 * ML2_CHUNK))``.

    Returns:
        Multipliers ``m``, uint64 ``(2, ML2_CHUNK)`` (read-only), and chunk keys ``k``, uint64
        ``(2, 2 * chunks + 1)``; the first axis is the lane. Frameworks without unsigned 64-bit arithmetic can
        use both as int64 (``.view(np.int64)``): sums and products modulo 2**64 have the same bits.
    """
    return _multipliers(), np.stack([splitmix64(seed, 2 * chunks + 1) for seed in KEY_SEEDS])


def fingerprint_reference(buffer: Any) -> tuple[int, int]:
    """ML2 as defined above, in plain numpy: what every other implementation must equal.

    Args:
        buffer: bytes-like object or C-contiguous array of any dtype.

    Returns:
        The two lanes, unsigned.
    """
    octets = _octets(buffer)
    chunks = -(-octets.size // _CHUNK_BYTES)
    multipliers, chunk_keys = keys(chunks)
    with np.errstate(over="ignore"):
        lanes = chunk_keys[:, 0] * np.uint64(octets.size)
        for first in range(0, chunks, _REFERENCE_CHUNKS):
            last = min(first + _REFERENCE_CHUNKS, chunks)
            block = octets[first * _CHUNK_BYTES : last * _CHUNK_BYTES]
            padded = np.pad(block, (0, (last - first) * _CHUNK_BYTES - block.size))
            words = padded.view("<u4").reshape(last - first, ML2_CHUNK).astype(np.uint64)
            inner = np.stack([(words * m).sum(axis=1, dtype=np.uint64) for m in multipliers])
            k = chunk_keys[:, 2 * first + 1 : 2 * last + 1].reshape(2, last - first, 2)
            lanes += (k[:, :, 0] * (inner & np.uint64(0xFFFFFFFF))).sum(axis=1, dtype=np.uint64)
            lanes += (k[:, :, 1] * (inner >> np.uint64(32))).sum(axis=1, dtype=np.uint64)
    return int(lanes[0]), int(lanes[1])


def fingerprint_bytes(buffer: Any) -> Fingerprint:
    """Fingerprint of a whole buffer; ``covers`` is ``"content"``.

    Args:
        buffer: bytes-like object or C-contiguous array of any dtype, read as bytes.

    Raises:
        UsageError: an array that is not C-contiguous.
    """
    octets = _octets(buffer)
    lanes = fingerprint_address(octets.__array_interface__["data"][0], octets.size)
    return Fingerprint(lanes, octets.size)


def fingerprint_address(address: int, nbytes: int, *, threads: int | None = None) -> tuple[int, int]:
    """Both lanes of ``nbytes`` bytes of raw memory, of any alignment.

    The caller keeps the memory alive and unchanged. The GIL is released while it is read.

    Args:
        address: of the first byte; ignored if ``nbytes`` is 0.
        nbytes: how many bytes.
        threads: readers; by default 1 below `PARALLEL_FROM`, else the usable cores. The value is the same.

    Returns:
        The two lanes, unsigned.
    """
    kernel = _ml2 or _kernel_for(1, nbytes)
    if nbytes < PARALLEL_FROM and threads is None:
        return kernel(address, nbytes, 0, (nbytes + _CHUNK_BYTES - 1) // _CHUNK_BYTES, *_constants)
    return fingerprint_addresses([(address, nbytes)], threads=threads)[0]


def fingerprint_addresses(buffers: Sequence[tuple[int, int]], *, threads: int | None = None) -> list[tuple[int, int]]:
    """Both lanes of many buffers, shared among threads: `fingerprint_address` of each.

    Args:
        buffers: (address of the first byte, bytes) of each.
        threads: readers; by default 1 for less than `PARALLEL_FROM` in all, else the usable cores.
    """
    room = sum(nbytes for _, nbytes in buffers)
    kernel = _ml2 or _kernel_for(len(buffers), room)
    if threads is None and room < PARALLEL_FROM:
        threads = 1
    parts, owners = [], []
    for owner, (address, nbytes) in enumerate(buffers):
        chunks = -(-nbytes // _CHUNK_BYTES)
        for cut in range(0, chunks, _PART_CHUNKS) or [0]:
            parts.append((address, nbytes, cut, min(cut + _PART_CHUNKS, chunks), *_constants))
            owners.append(owner)
    lanes = [(0, 0)] * len(buffers)
    for owner, (first, second) in zip(owners, _threads.spread(kernel, parts, threads), strict=True):
        lanes[owner] = (lanes[owner][0] + first) & _MASK, (lanes[owner][1] + second) & _MASK
    return lanes


def implementation() -> str:
    """``"numba"`` or ``"numpy"`` (numba missing or unusable: about 10 times slower, same values)."""
    kernel = _ml2 or _load_kernel()
    return "numpy" if kernel is _numpy_share else "numba"


def _kernel_for(buffers: int, nbytes: int) -> Callable[..., tuple[int, int]]:
    """Plain numpy until this process has spent on it what loading numba takes; the values are the same."""
    global _spent
    _spent += buffers * _NUMPY_CALL + nbytes * _NUMPY_BYTE
    return _load_kernel() if _spent > _NUMBA_LOADS else _numpy_share


def _load_kernel() -> Callable[..., tuple[int, int]]:
    """Compile, or read from numba's cache on disk."""
    global _ml2, _constants
    found = kernel_of("fingerprint") if sys.byteorder == "little" else None
    kernel: Callable[..., tuple[int, int]] = found.ml2 if found else _numpy_share
    _constants = (_multipliers().__array_interface__["data"][0], *KEY_SEEDS)
    _ml2 = kernel
    return kernel


def _numpy_share(address: int, nbytes: int, first: int, last: int, *constants: int) -> tuple[int, int]:
    """The kernel's stand-in; the share of the first chunk is the whole, the others are nothing."""
    if first:
        return 0, 0
    if not 0 < nbytes <= _CHUNK_BYTES:
        return fingerprint_reference((ctypes.c_uint8 * nbytes).from_address(address) if nbytes else b"")
    padded = ctypes.string_at(address, nbytes).ljust(-(-nbytes // 4) * 4, b"\0")
    words = np.frombuffer(padded, "<u4").astype(np.uint64)
    lanes = []
    for multipliers, (length, low, high) in zip(_multipliers(), _first_keys(), strict=True):
        inner = int(np.dot(words, multipliers[: words.size]))
        lanes.append((length * nbytes + low * (inner & 0xFFFFFFFF) + high * (inner >> 32)) & _MASK)
    return lanes[0], lanes[1]


@functools.cache
def _first_keys() -> list[list[int]]:
    """Of the length and of the first chunk, per lane."""
    return [splitmix64(seed, 3).tolist() for seed in KEY_SEEDS]


def _octets(buffer: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The bytes of a buffer, not copied."""
    if isinstance(buffer, np.ndarray):
        if not buffer.flags.c_contiguous:
            raise UsageError(
                "A fingerprint reads memory in row-major order.",
                actual=f"strides {buffer.strides}",
                expected="a C-contiguous array",
                next_step="pass numpy.ascontiguousarray(array)",
            )
        return buffer.reshape(-1).view(np.uint8)
    return np.frombuffer(buffer, dtype=np.uint8)
