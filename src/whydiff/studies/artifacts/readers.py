"""From a file to its named tensors and values, without reading the numbers. Nothing is ever unpickled here.

`.pt` files go through the torch adapter (``weights_only=True``, mapped); `.parquet` and `.csv` need pyarrow; GGUF, ONNX,
HDF5, msgpack, faiss and Orbax are read by their own libraries in another process (`whydiff.studies.artifacts.foreign`).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.adapters import for_framework
from whydiff.capturing.store import strict
from whydiff.capturing.store.dtypes import NATIVE, TAGS
from whydiff.capturing.store.nested import named_leaves
from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.capturing.store.tensor_files import DAMAGE, npy_header, plain_members
from whydiff.errors import MissingPackageError
from whydiff.studies.artifacts.columns import read_columns
from whydiff.studies.artifacts.content import Content, Spool, damaged
from whydiff.studies.artifacts.foreign.reading import FOREIGN, read_foreign
from whydiff.studies.artifacts.rows import id_of
from whydiff.studies.artifacts.sources import FileRange, InMemory, Stored, in_memory, real_bits

MAX_TEXT = 64 << 20
"""Largest JSON or CSV file, in bytes, that is looked into; a larger one is compared byte by byte.

Parsed, JSON takes up to some 25 times its size in memory."""


def reader_for(path: Path) -> Callable[[Path], Content] | None:
    """How a file is looked into, by its suffix; None: it is compared byte by byte."""
    if path.is_dir():
        return read_foreign
    if path.suffix.lower() == ".index" and not _begins(path, b"I"):
        return None
    return _READERS.get(path.suffix.lower())


def _begins(path: Path, magic: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic


def _safetensors(path: Path) -> Content:
    opened = SafetensorsFile(path)
    tensors, skipped = {}, {}
    for name, (tag, shape, begin, end) in opened.entries.items():
        if tag not in TAGS:
            skipped[name] = f"dtype {tag} is not read here"
            continue
        dtype, stored = TAGS[tag]
        bits = real_bits(stored)
        tensors[name] = Stored(
            name, dtype, shape, FileRange(path, opened.offset(name), (end - begin) // bits.itemsize, bits)
        )
    return Content(tensors, {f"__metadata__.{key}": str(value) for key, value in opened.metadata.items()}, skipped)


def _stored(name: str, path: Path, begin: int, header: tuple[tuple[int, ...], bool, np.dtype[Any]]) -> Stored | str:
    shape, fortran, dtype = header
    if dtype.name not in NATIVE or dtype.newbyteorder("<") != dtype:
        return f"dtype {dtype} is not compared"
    bits = real_bits(dtype.name)
    count = 1
    for length in shape:
        count *= length
    source = FileRange(path, begin, count * dtype.itemsize // bits.itemsize, bits)
    return Stored(name, dtype.name, shape, source, "F" if fortran and len(shape) > 1 else "C")


def _npy(path: Path) -> Content:
    try:
        with open(path, "rb") as stream:
            header = npy_header(stream, path.stat().st_size)
            found = _stored("array", path, stream.tell(), header)
    except DAMAGE as error:
        raise damaged(path, error) from error
    return Content(skipped={"array": found}) if isinstance(found, str) else Content({"array": found})


def _npz(path: Path) -> Content:
    tensors: dict[str, Stored] = {}
    skipped: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in plain_members(archive, path.stat().st_size):
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    skipped[name] = "a member that is no .npy"
                    continue
                spooled, begin = _member(archive, member, path)
                with open(spooled, "rb") as stream:
                    stream.seek(begin)
                    header = npy_header(_Part(stream, begin), member.file_size)
                    found = _stored(name, spooled, stream.tell(), header)
                if isinstance(found, str):
                    skipped[name] = found
                else:
                    tensors[name] = found
    except DAMAGE as error:
        raise damaged(path, error) from error
    return Content(tensors, skipped=skipped)


class _Part:
    """A stream whose positions count from the beginning of one member."""

    def __init__(self, stream: Any, begin: int) -> None:
        self._stream, self._begin = stream, begin

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._stream.read(size)
        return data

    def tell(self) -> int:
        return int(self._stream.tell()) - self._begin


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> tuple[Path, int]:
    """A file that holds a member's plain bytes, and where they begin; compressed ones are spooled to disk."""
    if member.compress_type == zipfile.ZIP_STORED:
        with open(path, "rb") as raw:
            raw.seek(member.header_offset)
            head = raw.read(30)
            if head[:4] != b"PK\x03\x04":
                raise ValueError(f"{member.filename}: no member begins where the archive says")
            skip = 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        begin = member.header_offset + skip
        if begin + member.file_size > path.stat().st_size:
            raise ValueError(f"{member.filename}: the archive is shorter than it says")
        return path, begin
    spool = Spool()
    with archive.open(member) as stream:
        left = member.file_size
        while block := stream.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{member.filename} is longer than the archive says")
            spool.write(block)
    return spool.path, 0


def _torch(path: Path) -> Content:
    try:
        adapter = for_framework("torch")
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, f"Reading {path}") from error
    tensors, values, skipped = adapter.checkpoint(path)
    return Content(
        {
            name: Stored(name, payload.dtype, payload.bits.shape, InMemory(_line(payload), mapped=mapped))
            for name, (payload, mapped) in tensors.items()
        },
        values,
        skipped,
    )


def _line(payload: Any) -> np.ndarray[Any, Any]:
    flat: np.ndarray[Any, Any] = payload.bits.reshape(-1)
    return flat.view(real_bits(flat.dtype.name)) if payload.dtype.startswith("complex") else flat


def _json(path: Path) -> Content:
    def constant(name: str) -> float:
        return float(name.replace("Infinity", "inf"))

    decoder = json.JSONDecoder(parse_constant=constant, object_pairs_hook=strict.once)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".jsonl":
            lines = text.split("\n")  # not splitlines(): U+2028 is a letter of a line
            document: Any = _named([decoder.decode(line) for line in lines if line.strip()])
        else:
            document = decoder.decode(text)
        return Content(*_flattened(document, len(text)))
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, error) from error


def _named(rows: list[Any]) -> Any:
    """The records under their ids, if each has one of its own; else in the order of the file."""
    name = id_of(list(rows[0])) if rows and isinstance(rows[0], dict) else None
    if name is None or not all(isinstance(row, dict) and isinstance(row.get(name), str | int) for row in rows):
        return rows
    named = {f"{name}={row[name]}": row for row in rows}
    return named if len(named) == len(rows) else rows


def _flattened(document: Any, most: int) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Lists of numbers become tensors; everything else a scalar under its path."""
    tensors: dict[str, Stored] = {}
    values: dict[str, Any] = {}
    for name, value in named_leaves(document, _entries, most):
        array = _array(value)
        if array is not None:
            tensors[name] = in_memory(name, array)
        else:
            values[name] = value
    return tensors, values


def _entries(value: Any) -> Iterable[tuple[str | int, Any]] | None:
    if isinstance(value, dict) and value:
        return value.items()
    return enumerate(value) if isinstance(value, list) and value and _array(value) is None else None


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """A list of whole numbers or of floats as an array; None for anything else. A float may be written as ``1``."""
    if not isinstance(value, list) or not value:
        return None
    kinds = {type(item) for item in value}
    if kinds == {int} and all(-(2**63) <= item < 2**63 for item in value):
        return np.array(value, np.int64)
    if kinds == {float} or (kinds == {int, float} and all(type(n) is float or abs(n) <= 2**53 for n in value)):
        return np.array(value, np.float64)
    return None


_READERS: dict[str, Callable[[Path], Content]] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".npz": _npz,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": read_columns,
    ".csv": read_columns,
    **dict.fromkeys(FOREIGN, read_foreign),
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _torch),
}
TEXT = frozenset({".json", ".jsonl", ".csv"})
