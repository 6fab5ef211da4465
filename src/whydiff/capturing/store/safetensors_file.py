"""Read a safetensors file through a memory map: header checked in full, tensors as read-only slices.

The library's numpy reader cannot name bfloat16, fails on 8-bit floats and copies, so only its writer is used.
Format: https://github.com/huggingface/safetensors#format (8 bytes header length, JSON header, data without
holes or overlaps).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store import strict
from whydiff.capturing.store.dtypes import NATIVE, TAGS
from whydiff.capturing.store.layout import COPY_AGAIN
from whydiff.errors import PayloadError, TraceFormatError

MAX_HEADER = 100_000_000
"""Largest header in bytes; the same limit as the safetensors library's."""
MAX_DIMENSIONS = 32
"""numpy 1.26 has at most 32 dimensions."""

Entry = tuple[str, tuple[int, ...], int, int]  # safetensors tag, shape, begin and end within the data


def _bad(what: str, path: Path, actual: str = "", expected: str = "") -> TraceFormatError:
    return TraceFormatError(what, where=str(path), actual=actual, expected=expected, next_step=COPY_AGAIN)


class SafetensorsFile:
    """An open safetensors file.

    Attributes:
        entries: tensor name → (tag, shape, begin, end); offsets are within the data part.
        metadata: the header's free text, key → value.
        header_crc32: CRC-32 of everything before the data part.
        size: of the whole file in bytes.

    Raises:
        TraceFormatError: truncated, malformed, or a tensor's bytes do not equal its declared shape and dtype.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                if self.size < 8:
                    raise _bad("A safetensors file is truncated.", path, f"{self.size} bytes", "at least 8")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _bad("A safetensors file cannot be read.", path, str(error)) from error
        length = int.from_bytes(self._map[:8], "little")
        self._data = 8 + length
        if length > MAX_HEADER or self._data > self.size:
            raise _bad(
                "A safetensors header is longer than its file.",
                path,
                f"header of {length} bytes",
                f"at most {min(MAX_HEADER, self.size - 8)}",
            )
        head = self._map[: self._data]
        self.header_crc32 = zlib.crc32(head)
        self.entries = self._entries(head[8:])

    def _entries(self, header: bytes) -> dict[str, Entry]:
        try:
            decoded = strict.decode(header.decode("utf-8"))
            if not isinstance(decoded, dict):
                raise ValueError("the header is no object")
            metadata = decoded.pop("__metadata__", None)
            self.metadata: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
            entries = {name: _entry(name, raw) for name, raw in decoded.items()}
        except (ValueError, RecursionError) as error:
            raise _bad("A safetensors header is malformed.", self.path, str(error)) from error
        end = 0
        for name, (_, _, begin, stop) in sorted(entries.items(), key=lambda item: item[1][2:]):
            if begin != end:
                found = f"{name} begins at {begin}"
                raise _bad("Tensors overlap or leave a hole.", self.path, found, str(end))
            end = stop
        if end != self.size - self._data:
            raise _bad(
                "A safetensors file does not have the bytes its header declares.",
                self.path,
                f"{self.size - self._data} bytes of data",
                f"{end} bytes",
            )
        return entries

    def close(self) -> None:
        """Let go of the file; where arrays that were read still look at it, with the last of them."""
        with contextlib.suppress(BufferError):  # somebody holds an array: the map goes with it
            self._map.close()

    def offset(self, name: str) -> int:
        """Where a tensor's bytes begin in the file."""
        return self._data + self.entries[name][2]

    def slice(self, name: str) -> memoryview:
        """The bytes of one tensor."""
        _, _, begin, end = self.entries[name]
        return memoryview(self._map)[self._data + begin : self._data + end]

    def array(
        self, name: str, dtype: np.dtype[Any] | None = None, shape: tuple[int, ...] | None = None
    ) -> np.ndarray[Any, Any]:
        """One tensor as a C-contiguous, read-only array; copied only if the file does not align it.

        Args:
            name: of the tensor.
            dtype: little-endian numpy dtype of the bits; the tag's own if not given.
            shape: the tag's own if not given.

        Raises:
            PayloadError: the file's dtype has no whole number of bytes (or is unknown here).
            TraceFormatError: numpy cannot make an array of this shape.
        """
        tag, own_shape, begin, end = self.entries[name]
        if dtype is None:
            if tag not in TAGS:
                raise PayloadError(
                    "A tensor has a dtype that this version does not read.",
                    where=f"{self.path}: {name}",
                    actual=tag,
                    expected=", ".join(TAGS),
                    next_step="Convert it to another dtype first.",
                )
            dtype = NATIVE[TAGS[tag][1]]
        shape = own_shape if shape is None else shape
        try:
            if begin == end:
                return np.zeros(shape, dtype)
            flat = np.frombuffer(self._map, dtype, (end - begin) // dtype.itemsize, self._data + begin)
            return (flat if flat.flags.aligned else flat.copy()).reshape(shape)
        except ValueError as error:
            raise _bad("A tensor's shape is impossible.", self.path, f"{name}: {shape}: {error}") from error


def _entry(name: str, raw: Any) -> Entry:
    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r:.60} must have dtype, shape and data_offsets")
    tag, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    lists = isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2
    numbers = lists and all(type(n) is int and 0 <= n < 2**63 for n in shape + offsets)
    if not isinstance(tag, str) or not numbers:
        raise ValueError(f"{name!r:.60} has a dtype, shape or offset of the wrong type")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name!r:.60} has {len(shape)} dimensions")
    begin, end = offsets
    if begin > end:
        raise ValueError(f"{name!r:.60} ends before it begins")
    if tag in TAGS and math.prod(shape) * NATIVE[TAGS[tag][1]].itemsize != end - begin:
        raise ValueError(f"{name!r:.60} declares {tag}{shape} in {end - begin} bytes")
    return tag, tuple(shape), begin, end
