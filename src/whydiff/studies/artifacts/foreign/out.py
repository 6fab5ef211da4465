"""What a reader of a foreign format hands over: where each tensor's bytes are, values, and what cannot be read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from whydiff.capturing.store.nested import MAX_NAME, MAX_NODES
from whydiff.numbers.metrics import known_dtypes

Array = np.ndarray[Any, Any]
TEXT = 1 << 16
"""Characters of one value that are kept; of a longer one the digest stands for the rest."""
RATIO = 1100
"""Bytes that a byte of the file may unpack to; deflate reaches 1032."""


class Out:
    """Collects one file's content; numbers that are not plain in the file are appended to ``numbers``."""

    def __init__(self, numbers: BinaryIO) -> None:
        self._numbers = numbers
        self.tensors: dict[str, dict[str, Any]] = {}
        self.values: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}
        self.elsewhere = False

    def array(self, name: str, array: Any) -> None:
        """An array whose bytes are copied; text and objects are counted as not read."""
        found = np.asarray(array)
        if not self._known(name, found.dtype.name):
            return
        begin = self._numbers.tell()
        found = found.astype(found.dtype.newbyteorder("<"), copy=False)
        for piece in self._pieces(found):
            self._numbers.write(np.ascontiguousarray(piece).view(np.uint8).data)
        self._put(name, dtype=found.dtype.name, shape=found.shape, offset=begin)

    def pieces(self, name: str, dtype: str, shape: Iterable[int], pieces: Iterable[Array]) -> None:
        """An array that comes in pieces, in C order."""
        if not self._known(name, dtype):
            return
        begin = self._numbers.tell()
        for piece in pieces:
            self._numbers.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
        self._put(name, dtype=dtype, shape=shape, offset=begin)

    def place(self, name: str, dtype: str, shape: Iterable[int], file: Path, offset: int, packed: str = "") -> None:
        """An array whose little-endian bytes lie in a file; ``packed``: how blocks of it are quantised."""
        if packed or self._known(name, dtype):
            self._put(name, dtype=dtype, shape=shape, offset=offset, file=str(file), packed=packed)

    def value(self, name: str, value: Any) -> None:
        """A number, text, bool or None; of anything else what it prints, with its type."""
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, bytes):
            plain = plain.decode("utf-8", "backslashreplace")
        if not isinstance(plain, str | int | float | bool | None):
            plain = f"{type(plain).__name__} {plain}"
        if isinstance(plain, str) and len(plain) > TEXT:
            digest = hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
            plain = f"{plain[:TEXT]}… {len(plain)} characters, sha256 {digest}"
        self._new(name, self.values)[name] = plain

    def skip(self, name: str, why: str, *, elsewhere: bool = False) -> None:
        """Something that cannot be compared, and why; ``elsewhere``: this file's bytes do not hold it."""
        self._new(name, self.skipped)[name] = why
        self.elsewhere |= elsewhere

    def document(self) -> str:
        """Everything, as JSON."""
        parts = {"tensors": self.tensors, "values": self.values, "skipped": self.skipped, "elsewhere": self.elsewhere}
        return json.dumps(parts)

    def _known(self, name: str, dtype: str) -> bool:
        if dtype in known_dtypes():
            return True
        self.skip(name, f"dtype {dtype} is not compared")
        return False

    def _put(
        self, name: str, *, dtype: str, shape: Iterable[int], offset: int, file: str = "", packed: str = ""
    ) -> None:
        sizes = [int(size) for size in shape]
        if any(size < 0 for size in sizes) or math.prod(sizes) >= 1 << 60:
            raise ValueError(f"{name[:60]!r} has the shape {sizes}")
        place = {"dtype": dtype, "shape": sizes, "offset": int(offset), "file": file, "packed": packed}
        self._new(name, self.tensors)[name] = place

    def _new(self, name: str, where: Mapping[str, Any]) -> Any:
        if len(name) > MAX_NAME or len(self.tensors) + len(self.values) + len(self.skipped) >= MAX_NODES:
            raise ValueError(f"a name is longer than {MAX_NAME} characters, or there are more than {MAX_NODES} names")
        if any(name in known for known in (self.tensors, self.values, self.skipped)):
            raise ValueError(f"two entries have the name {name[:60]!r}")
        return where

    def _pieces(self, array: Array) -> Iterable[Array]:
        if array.ndim < 1 or array.nbytes < 1 << 24:
            return (array.reshape(-1),)
        step = max(1, (1 << 24) * len(array) // array.nbytes)
        return (array[at : at + step].reshape(-1) for at in range(0, len(array), step))
