"""Full tensors that wait to be written to a shard, and the safetensors file that they are written to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from whydiff.capturing.store.dtypes import TAGS, stored_array
from whydiff.capturing.store.safetensors_file import MAX_DIMENSIONS
from whydiff.errors import CaptureError
from whydiff.records import Payload

_TAG = {stored: tag for tag, (true, stored) in TAGS.items() if true == stored}
_ALIGNED = 8


class Tensor(NamedTuple):
    """One of them: bits in row-major order, names of their dtype and of its own, bytes of all up to it."""

    bits: np.ndarray[Any, Any]
    stored: str
    dtype: str
    end: int


class Waiting:
    """Tensors by key, in order; every change is one assignment, so that no interrupt leaves it half made."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._held

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def nbytes(self) -> int:
        """Of all bits."""
        return next(reversed(self._held.values())).end if self._held else 0

    def put(self, key: str, payload: Payload, *, copy: bool = True) -> None:
        """Let one wait.

        Args:
            key: new.
            payload: its tensor.
            copy: False: its memory is not written to, or given back, before it is dropped.

        Raises:
            CaptureError: its bits do not have its dtype.
        """
        bits, stored = stored_array(key, payload, copy=copy)
        self._held[key] = Tensor(bits, stored, payload.dtype, self.nbytes + bits.nbytes)

    def held(self) -> dict[str, Tensor]:
        """What waits now."""
        return dict(self._held)

    def drop(self, keys: Iterable[str]) -> None:
        """Forget some: they were written, or cannot be."""
        gone = set(keys)
        self._held = {key: tensor for key, tensor in self._held.items() if key not in gone}


def check_payload(key: str, payload: Payload, taken: bool) -> None:
    """Refuse what no shard can hold.

    Raises:
        CaptureError: the key is empty, reserved or taken, or the tensor has too many dimensions.
    """
    if not key or key == "__metadata__" or taken or not key.isprintable():
        raise CaptureError(
            "A payload's key cannot be used.",
            where=repr(key),
            actual="taken" if taken else "",
            expected="a new, printable, non-empty string other than __metadata__",
        )
    if payload.bits.ndim > MAX_DIMENSIONS:
        raise CaptureError("A payload has too many dimensions.", where=key, actual=str(payload.bits.ndim))


def write_shard(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write named C-contiguous little-endian arrays, wide elements first so that each is aligned.

    As they are in memory: the library's writer holds a second copy of everything. Format:
    https://github.com/huggingface/safetensors#format.

    Raises:
        OSError: it cannot be written.
    """
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    header: dict[str, Any] = {}
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _TAG[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            file.write(array.reshape(-1).view(np.uint8).data)


class At(NamedTuple):
    """How far a trace is written; replaced as a whole, so that no interrupt leaves it half changed."""

    size: int = 0
    crc: int = 0
    strings: int = 0
    specs: int = 0
    calls: int = 0
    leaves: int = 0
    contexts: int = 0
    steps: int = 0
    payloads: int = 0
    shards: int = 0
    payload_bytes: int = 0
    finished: int = 0
