"""ML2 of many tensors by one launch, in Triton; imported by `queue` at the first tensor on a GPU, never before.

Definition and keys: `whydiff.numbers.fingerprint`. A block reads several chunks of one tensor at once, so that a
multiplier that was loaded serves all of them: read anew for every chunk, the tables would be four times the data.
The products are split into 32-bit halves, for which the machine has one instruction each. Sums of integers are
associative, so blocks add their shares with atomics in any order.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

COLUMNS = 4
"""Of the table of tensors: address, bytes, number of the first block, row of the results."""

_WIDTH = 64
_WARPS = 2
_UNROLL = 2


@triton.jit(do_not_specialize=["count", "key_stride"])
def _ml2_many(
    table,
    count,
    multipliers,
    keys,
    key_stride,
    results,
    CHUNKS: tl.constexpr,
    WIDTH: tl.constexpr,
    UNROLL: tl.constexpr,
):
    block = tl.program_id(0).to(tl.int64)
    row = tl.zeros((), tl.int32)
    end = row + count
    while row + 1 < end:  # the last tensor whose first block is not behind this one
        middle = (row + end) // 2
        before = tl.load(table + 4 * middle + 2) <= block
        row = tl.where(before, middle, row)
        end = tl.where(before, end, middle)
    address = tl.load(table + 4 * row)
    nbytes = tl.load(table + 4 * row + 1)
    first = (block - tl.load(table + 4 * row + 2)) * CHUNKS
    words = nbytes // 4
    chunk = first + tl.arange(0, CHUNKS).to(tl.int64)
    base = chunk[:, None] * 8192
    low0 = tl.zeros((CHUNKS, WIDTH), tl.uint64)
    low1 = tl.zeros((CHUNKS, WIDTH), tl.uint64)
    high0 = tl.zeros((CHUNKS, WIDTH), tl.uint32)
    high1 = tl.zeros((CHUNKS, WIDTH), tl.uint32)
    memory = address.to(tl.pointer_type(tl.uint32))
    whole = (first + CHUNKS) * 8192 <= words
    if (address % 4 == 0) & whole:
        for start in tl.range(0, 8192, WIDTH, loop_unroll_factor=UNROLL):
            j = start + tl.arange(0, WIDTH)
            word = tl.load(memory + base + j[None, :])
            wide = word.to(tl.uint64)
            low0 += wide * tl.load(multipliers + j).to(tl.uint64)[None, :]
            high0 += word * tl.load(multipliers + 8192 + j)[None, :]
            low1 += wide * tl.load(multipliers + 16384 + j).to(tl.uint64)[None, :]
            high1 += word * tl.load(multipliers + 24576 + j)[None, :]
    elif address % 4 == 0:
        for start in range(0, 8192, WIDTH):
            j = start + tl.arange(0, WIDTH)
            at = base + j[None, :]
            word = tl.load(memory + at, mask=at < words, other=0)
            wide = word.to(tl.uint64)
            low0 += wide * tl.load(multipliers + j).to(tl.uint64)[None, :]
            high0 += word * tl.load(multipliers + 8192 + j)[None, :]
            low1 += wide * tl.load(multipliers + 16384 + j).to(tl.uint64)[None, :]
            high1 += word * tl.load(multipliers + 24576 + j)[None, :]
    else:
        octets = address.to(tl.pointer_type(tl.uint8))
        for start in range(0, 8192, WIDTH):
            j = start + tl.arange(0, WIDTH)
            at = base + j[None, :]
            there = at < words
            word = tl.load(octets + 4 * at, mask=there, other=0).to(tl.uint32)
            word |= tl.load(octets + 4 * at + 1, mask=there, other=0).to(tl.uint32) << 8
            word |= tl.load(octets + 4 * at + 2, mask=there, other=0).to(tl.uint32) << 16
            word |= tl.load(octets + 4 * at + 3, mask=there, other=0).to(tl.uint32) << 24
            wide = word.to(tl.uint64)
            low0 += wide * tl.load(multipliers + j).to(tl.uint64)[None, :]
            high0 += word * tl.load(multipliers + 8192 + j)[None, :]
            low1 += wide * tl.load(multipliers + 16384 + j).to(tl.uint64)[None, :]
            high1 += word * tl.load(multipliers + 24576 + j)[None, :]
    # up to three bytes that fill no word
    rest = nbytes - 4 * words
    behind = (address + 4 * words).to(tl.pointer_type(tl.uint8))
    tail = tl.load(behind, mask=rest > 0, other=0).to(tl.uint64)
    tail |= tl.load(behind + 1, mask=rest > 1, other=0).to(tl.uint64) << 8
    tail |= tl.load(behind + 2, mask=rest > 2, other=0).to(tl.uint64) << 16
    j = (words % 8192).to(tl.int32)
    low = tl.load(multipliers + j).to(tl.uint64)
    last0 = tail * (low + (tl.load(multipliers + 8192 + j).to(tl.uint64) << 32))
    low = tl.load(multipliers + 16384 + j).to(tl.uint64)
    last1 = tail * (low + (tl.load(multipliers + 24576 + j).to(tl.uint64) << 32))
    ends = (chunk == words // 8192).to(tl.uint64)
    inner0 = tl.sum(low0 + (high0.to(tl.uint64) << 32), axis=1) + ends * last0
    inner1 = tl.sum(low1 + (high1.to(tl.uint64) << 32), axis=1) + ends * last1
    # every chunk by its keys; chunks behind the tensor have none
    there = chunk * 32768 < nbytes
    key = keys + 2 * chunk
    odd = tl.load(key + 1, mask=there, other=0).to(tl.uint64)
    even = tl.load(key + 2, mask=there, other=0).to(tl.uint64)
    share0 = tl.sum(odd * inner0.to(tl.uint32).to(tl.uint64) + even * (inner0 >> 32), axis=0)
    key += key_stride
    odd = tl.load(key + 1, mask=there, other=0).to(tl.uint64)
    even = tl.load(key + 2, mask=there, other=0).to(tl.uint64)
    share1 = tl.sum(odd * inner1.to(tl.uint32).to(tl.uint64) + even * (inner1 >> 32), axis=0)
    if first == 0:
        share0 += tl.load(keys).to(tl.uint64) * nbytes.to(tl.uint64)
        share1 += tl.load(keys + key_stride).to(tl.uint64) * nbytes.to(tl.uint64)
    result = results + 2 * tl.load(table + 4 * row + 3)
    tl.atomic_add(result, share0.to(tl.int64), sem="relaxed")
    tl.atomic_add(result + 1, share1.to(tl.int64), sem="relaxed")


def launch(*, table: Any, count: int, blocks: int, chunks: int, multipliers: Any, keys: Any, results: Any) -> None:
    """Add the lanes of ``count`` tensors to the rows of ``results`` that the table names, on the current stream.

    Args:
        table: int64, `COLUMNS` for each of at least ``count`` tensors, on the device; every tensor has at least one
            block, and one for every ``chunks`` chunks begun.
        count: tensors.
        blocks: of all of them.
        chunks: that a block reads at once.
        multipliers: uint32 ``(4, 8192)``: lower and upper halves of lane 0, then of lane 1.
        keys: int64 ``(2, n)``, the key schedule of at least the longest tensor.
        results: int64 ``(n, 2)``.
    """
    _ml2_many[(blocks,)](
        table,
        count,
        multipliers,
        keys,
        keys.stride(0),
        results,
        CHUNKS=chunks,
        WIDTH=_WIDTH,
        UNROLL=_UNROLL,
        num_warps=_WARPS,
    )
