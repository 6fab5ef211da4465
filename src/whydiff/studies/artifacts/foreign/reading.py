"""Read a foreign file apart, and check what it is said to hold against the bytes that are there."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.dtypes import NATIVE, UNSIGNED
from whydiff.errors import UsageError
from whydiff.studies.artifacts.content import Content, Spool, damaged
from whydiff.studies.artifacts.sources import FileRange, Source, Stored, real_bits

_WIDTHS = {"bfloat16": 2, "complex64": 8, "complex128": 16}
_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Foreign:
    """A format: module that reads it, and the library that owns it, by import and by package name."""

    module: str
    library: str
    package: str


FOREIGN = {
    ".gguf": Foreign("of_gguf", "gguf", "gguf"),
    ".onnx": Foreign("of_onnx", "onnx", "onnx"),
    **dict.fromkeys((".h5", ".hdf5"), Foreign("of_hdf5", "h5py", "h5py")),
    ".msgpack": Foreign("of_msgpack", "msgpack", "msgpack"),
    **dict.fromkeys((".faiss", ".index"), Foreign("of_faiss", "faiss", "faiss-cpu")),
}
"""Suffix → how it is read."""
REFERS = frozenset({".onnx", ".h5", ".hdf5"})
"""Suffixes of files whose numbers may lie in other files: their own bytes do not settle whether two are equal."""
_ORBAX = Foreign("of_orbax", "orbax.checkpoint", "orbax-checkpoint")


def is_orbax(folder: Path) -> bool:
    """Whether a folder is a checkpoint that Orbax wrote: its metadata, and an array store beside it."""
    stores = ("manifest.ocdbt", "array_metadatas", "d", "_sharding")
    return (folder / "_METADATA").is_file() and any((folder / name).exists() for name in stores)


def read_foreign(path: Path) -> Content:
    """The content of a file, or of an Orbax checkpoint's folder.

    Raises:
        UsageError: the library that owns the format is not installed.
        TraceFormatError: damaged or hostile.
    """
    known = _ORBAX if path.is_dir() else FOREIGN[path.suffix.lower()]
    if importlib.util.find_spec(known.library.partition(".")[0]) is None:
        raise UsageError(
            f"Reading this file needs {known.package}.", where=str(path), next_step="pip install 'whydiff[formats]'"
        )
    numbers, document = Spool(), Spool()
    here = Path(__file__).parents[4]
    command = [sys.executable, "-m", "whydiff.studies.artifacts.foreign.child", known.module]
    try:
        done = subprocess.run(
            [*command, str(path.resolve()), str(numbers.path), str(document.path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env={**_environment(), "PYTHONPATH": str(here)},
        )
        if done.returncode:
            raise ValueError(_told(done))
        return checked(document, numbers, path)
    except (ValueError, KeyError, TypeError, OSError, subprocess.TimeoutExpired) as error:
        raise damaged(path, error) from error


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def _told(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"its library ended with {signal.Signals(-done.returncode).name} while it read"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else f"its library ended with status {done.returncode}"


def checked(document: Spool, numbers: Spool, path: Path) -> Content:
    """What a reader wrote of a file, each tensor within the bytes that are there.

    Raises:
        ValueError: a tensor is longer than the file that holds it.
    """
    told = json.loads(document.path.read_text(encoding="utf-8"))
    numbers.size, document.size = (spool.path.stat().st_size for spool in (numbers, document))
    tensors = {name: _stored(name, place, numbers.path) for name, place in told["tensors"].items()}
    away = any(place["file"] not in ("", str(path.resolve())) for place in told["tensors"].values())
    return Content(tensors, told["values"], told["skipped"], elsewhere=told["elsewhere"] or away)


def _stored(name: str, place: dict[str, Any], spooled: Path) -> Stored:
    shape, dtype, offset = tuple(place["shape"]), place["dtype"], place["offset"]
    file = Path(place["file"]) if place["file"] else spooled
    count, packed = math.prod(shape), place["packed"]
    size = block_bytes(packed, count) if packed else count * _width(dtype)
    if offset < 0 or offset + size > file.stat().st_size:
        raise ValueError(f"{name[:60]!r} is longer than the file that holds it")
    source: Source
    if packed:
        source = Blocks(FileRange(file, offset, size, NATIVE["uint8"]), packed, count)
        return Stored(name, "float32", shape, source, packed=packed)
    stored = dtype if dtype in NATIVE else UNSIGNED[_width(dtype)]
    bits = real_bits(stored)
    return Stored(name, dtype, shape, FileRange(file, offset, size // bits.itemsize, bits))


def _width(dtype: str) -> int:
    if dtype in _WIDTHS:
        return _WIDTHS[dtype]
    return 1 if dtype.startswith("float8") else NATIVE[dtype].itemsize


Array = np.ndarray[Any, Any]


def block_bytes(packed: str, numbers: int) -> int:
    """Bytes of so many numbers.

    Raises:
        ValueError: they fill no whole number of blocks.
    """
    each, size = _layout(packed)
    if numbers % each:
        raise ValueError(f"{numbers} numbers are no whole number of {packed} blocks of {each}")
    return numbers // each * size


class Blocks:
    """Numbers in blocks that share a scale; a `whydiff.studies.artifacts.sources.Source` of float32."""

    def __init__(self, bytes_: FileRange, packed: str, numbers: int) -> None:
        self._bytes, self._packed, self._numbers = bytes_, packed, numbers
        self._each, self._size = _layout(packed)

    def line(self, start: int, stop: int) -> Array:
        """Numbers ``[start, stop)``."""
        first, last = start // self._each, -(-stop // self._each)
        return self._unpacked(first, last)[start - first * self._each : stop - first * self._each]

    def rows(self, indices: Sequence[int], width: int) -> Array:
        """Rows of ``width`` numbers each."""
        return np.stack([np.array(self.line(index * width, (index + 1) * width)) for index in indices])

    def release(self) -> None:
        """Give back what can be read again."""
        self._bytes.release()

    def _unpacked(self, first: int, last: int) -> Array:
        from gguf import GGMLQuantizationType, quants

        blocks = np.array(self._bytes.line(first * self._size, last * self._size)).reshape(-1, self._size)
        with np.errstate(invalid="ignore", over="ignore"):  # a damaged scale
            found: Array = quants.dequantize(blocks, GGMLQuantizationType[self._packed])
        return found.astype(np.float32, copy=False).reshape(-1)


def _layout(packed: str) -> tuple[int, int]:
    """Numbers and bytes of one block."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    each, size = GGML_QUANT_SIZES[GGMLQuantizationType[packed]]
    return int(each), int(size)
