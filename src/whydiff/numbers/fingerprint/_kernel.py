"""ML2 compiled with numba; imported by `whydiff.numbers.fingerprint` at the first fingerprint, never before.

Everything is passed as integers (addresses), so that a call costs well under a microsecond. Four chunks are
read at once: they share the multipliers (128 KiB, more than a level-1 cache) and keep several memory streams
busy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.numbers.kernels.compiled import compiled, load_u8, load_u32, load_u64, nb, u64

_CHUNK = 8192
_CHUNK_BYTES = 4 * _CHUNK
_ZERO = np.uint64(0)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


@compiled(u64(u64, u64))
def _splitmix64(seed: Any, index: Any) -> Any:
    z = seed + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled(u64(u64, u64, u64))
def _fold(seed: Any, chunk: Any, inner: Any) -> Any:
    """What one chunk's inner sum adds to its lane."""
    even = np.uint64(2) * chunk
    low_key = _splitmix64(seed, even + np.uint64(1))
    high_key = _splitmix64(seed, even + np.uint64(2))
    return low_key * (inner & _LOW) + high_key * (inner >> _HALF)


@compiled(nb.types.UniTuple(u64, 2)(*[u64] * 7))
def ml2(address: Any, nbytes: Any, first: Any, last: Any, multipliers: Any, seed0: Any, seed1: Any) -> Any:
    """Both lanes' share of the chunks ``first <= c < last`` of ``nbytes`` bytes at ``address``.

    ``multipliers``: address of the 2 x 8192 uint64 table; seeds: of the chunk keys. Shares add up mod 2**64;
    the share that holds chunk 0 also holds the length.
    """
    h0 = h1 = _ZERO
    if first == _ZERO:
        h0 = _splitmix64(seed0, _ZERO) * nbytes
        h1 = _splitmix64(seed1, _ZERO) * nbytes
    whole: Any = np.int64(min(last, nbytes // np.uint64(_CHUNK_BYTES)))
    chunk = np.int64(first)
    while chunk + 4 <= whole:
        p0 = address + np.uint64(chunk * _CHUNK_BYTES)
        p1 = p0 + np.uint64(_CHUNK_BYTES)
        p2 = p1 + np.uint64(_CHUNK_BYTES)
        p3 = p2 + np.uint64(_CHUNK_BYTES)
        d0 = d1 = d2 = d3 = e0 = e1 = e2 = e3 = _ZERO
        for j in range(_CHUNK):
            m0 = load_u64(multipliers, j)
            m1 = load_u64(multipliers, j + _CHUNK)
            w0 = np.uint64(load_u32(p0, j))
            w1 = np.uint64(load_u32(p1, j))
            w2 = np.uint64(load_u32(p2, j))
            w3 = np.uint64(load_u32(p3, j))
            d0 += m0 * w0
            d1 += m0 * w1
            d2 += m0 * w2
            d3 += m0 * w3
            e0 += m1 * w0
            e1 += m1 * w1
            e2 += m1 * w2
            e3 += m1 * w3
        c = np.uint64(chunk)
        h0 += _fold(seed0, c, d0) + _fold(seed0, c + np.uint64(1), d1)
        h0 += _fold(seed0, c + np.uint64(2), d2) + _fold(seed0, c + np.uint64(3), d3)
        h1 += _fold(seed1, c, e0) + _fold(seed1, c + np.uint64(1), e1)
        h1 += _fold(seed1, c + np.uint64(2), e2) + _fold(seed1, c + np.uint64(3), e3)
        chunk += 4
    while chunk < np.int64(last):
        start = chunk * _CHUNK_BYTES
        p0 = address + np.uint64(start)
        size: Any = min(np.int64(nbytes) - start, _CHUNK_BYTES)
        words = size // 4
        d0 = e0 = _ZERO
        for j in range(words):
            w0 = np.uint64(load_u32(p0, j))
            d0 += load_u64(multipliers, j) * w0
            e0 += load_u64(multipliers, j + _CHUNK) * w0
        if size % 4:
            w0 = _ZERO
            for k in range(size % 4):
                w0 |= np.uint64(load_u8(p0, 4 * words + k)) << np.uint64(8 * k)
            d0 += load_u64(multipliers, words) * w0
            e0 += load_u64(multipliers, words + _CHUNK) * w0
        h0 += _fold(seed0, np.uint64(chunk), d0)
        h1 += _fold(seed1, np.uint64(chunk), e0)
        chunk += 1
    return h0, h1
