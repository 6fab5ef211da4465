"""Lines of numbers in files: read share by share into small buffers, so that memory stays bounded.

Plain positional reads, not a memory map: mapped pages would count as this process's memory until they are
given back, and a buffer that is used again and again stays in the processor's cache.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whydiff.capturing.store.dtypes import NATIVE
from whydiff.errors import TraceFormatError
from whydiff.numbers.metrics import is_integer

Array = np.ndarray[Any, Any]


class Source(Protocol):
    """Where the real numbers of one tensor are."""

    def line(self, start: int, stop: int) -> Array:
        """Numbers ``[start, stop)`` as a 1-D array of their bits; valid until the thread's next call."""

    def rows(self, indices: Sequence[int], width: int) -> Array:
        """Rows of ``width`` numbers each as a new 2-D array."""

    def release(self) -> None:
        """Give back what can be read again."""


class FileRange:
    """Numbers that lie in a file one after the other.

    Args:
        path: the file; it stays open while this object lives.
        offset: of the first byte.
        numbers: how many.
        stored: numpy dtype of one real number's bits.
    """

    def __init__(self, path: Path, offset: int, numbers: int, stored: np.dtype[Any]) -> None:
        self.path, self.offset, self.numbers, self.stored = path, offset, numbers, stored
        self._file: int | None = None
        self._lock = threading.Lock()
        self._local = threading.local()

    def line(self, start: int, stop: int) -> Array:
        """See `Source`."""
        size = (stop - start) * self.stored.itemsize
        buffer: Array | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.nbytes < size:
            buffer = self._local.buffer = np.empty(size, np.uint8)
        self._fill(memoryview(buffer.data)[:size], self.offset + start * self.stored.itemsize)
        return buffer[:size].view(self.stored)

    def rows(self, indices: Sequence[int], width: int) -> Array:
        """See `Source`."""
        found = np.empty((len(indices), width), self.stored)
        for row, index in zip(found, indices, strict=True):
            self._fill(memoryview(row.view(np.uint8).data), self.offset + index * width * self.stored.itemsize)
        return found

    def release(self) -> None:
        """See `Source`."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
            self._file = None
        self._local = threading.local()

    def _fill(self, room: memoryview, at: int) -> None:
        if self._file is None:
            with self._lock:
                if self._file is None:
                    self._file = os.open(self.path, os.O_RDONLY)
                    if hasattr(os, "posix_fadvise"):
                        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        done = 0
        while done < len(room):
            got = os.preadv(self._file, [room[done:]], at + done)
            if not got:
                raise TraceFormatError(
                    "A file ended while it was read.",
                    where=str(self.path),
                    actual=f"{at + done} bytes",
                    expected=f"{self.offset + self.numbers * self.stored.itemsize} bytes or more",
                )
            done += got

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # type: ignore[arg-type]


class InMemory:
    """Numbers of a small array, or of one that a library mapped.

    Args:
        line: 1-D array of bits.
        mapped: its pages come unchanged from a file, so that they may be dropped after use.
    """

    def __init__(self, line: Array, *, mapped: bool = False) -> None:
        self._line, self._mapped = line, mapped

    def line(self, start: int, stop: int) -> Array:
        """See `Source`; pages of the share before last are dropped."""
        part = self._line[start:stop]
        if self._mapped and start:
            width = stop - start
            drop_pages(self._line[max(0, start - 4 * width) : max(0, start - 2 * width)])
        return part

    def rows(self, indices: Sequence[int], width: int) -> Array:
        """See `Source`."""
        return np.array(self._line.reshape(-1, width)[list(indices)])

    def release(self) -> None:
        """See `Source`."""
        if self._mapped:
            drop_pages(self._line)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One named tensor of a file.

    Attributes:
        name: within its file.
        dtype: true dtype.
        shape: sizes.
        source: its real numbers in ``order``.
        order: ``C`` or ``F``.
        digests: the numbers stand for texts, one each; only whether they are equal means something.
        packed: how blocks of the file are quantised, of which ``source`` gives the numbers; empty: they are plain.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Source
    order: str = "C"
    digests: bool = False
    packed: str = ""

    @property
    def numbers(self) -> int:
        """Real numbers in it (a complex number is two)."""
        count = 2 if self.dtype in ("complex64", "complex128") else 1
        for size in self.shape:
            count *= size
        return count

    @property
    def is_integer(self) -> bool:
        """Compared exactly."""
        return is_integer(self.dtype)

    def __str__(self) -> str:
        return f"{'text' if self.digests else self.packed or self.dtype}[{','.join(map(str, self.shape))}]"


def real_bits(stored: str) -> np.dtype[Any]:
    """Numpy dtype of one real number's bits (complex64 → float32), little-endian."""
    return NATIVE[{"complex64": "float32", "complex128": "float64"}.get(stored, stored)]


def in_memory(name: str, array: Array) -> Stored:
    """A small numpy array as a tensor."""
    dense = np.ascontiguousarray(array)
    return Stored(name, dense.dtype.name, array.shape, InMemory(dense.reshape(-1).view(real_bits(dense.dtype.name))))


def drop_pages(line: Array) -> None:
    """Give the whole pages of a mapped, unchanged array back to the system; they are read again if needed."""
    import ctypes

    begin = line.__array_interface__["data"][0]
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (begin + line.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first and hasattr(mmap, "MADV_DONTNEED"):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
