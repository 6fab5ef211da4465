"""From a file to its named tensors and values, without reading the numbers. Nothing is ever unpickled here.

`.pt` files go through the torch adapter (``weights_only=True``, mapped); `.parquet` and `.csv` need pyarrow.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.adapters import for_framework
from whydiff.errors import TraceFormatError, UsageError
from whydiff.store.dtypes import NATIVE, TAGS
from whydiff.store.safetensors_file import SafetensorsFile
from whydiff.store.tensor_files import DAMAGE
from whydiff.studies.artifacts.sources import FileRange, InMemory, Stored, in_memory, real_bits

MAX_TEXT = 256 << 20
"""Largest JSON or CSV file, in bytes, that is looked into; a larger one is compared byte by byte."""
_DEEP = 200


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """What a file holds.

    Attributes:
        tensors: name → tensor.
        values: name → scalar (text, number, bool, None).
        skipped: name → why it cannot be compared.
        note: how it was read, where worth knowing.
    """

    tensors: Mapping[str, Stored] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def reader_for(path: Path) -> Callable[[Path], Content] | None:
    """How a file is looked into, by its suffix; None: it is compared byte by byte."""
    return _READERS.get(path.suffix.lower())


def damaged(path: Path, error: BaseException) -> TraceFormatError:
    """The error for a file that is not what its suffix says."""
    text = str(error).strip().splitlines()
    return TraceFormatError(
        "A file is damaged or hostile.",
        where=str(path),
        actual=f"{type(error).__name__}: {text[0] if text else ''}"[:300],
        next_step="Write it again, or leave it out of the tree.",
    )


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


def _npy_header(stream: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of a ``.npy`` stream; its data must fill the rest of ``size`` bytes."""
    form = np.lib.format
    version = form.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is not read here")
    shape, fortran, dtype = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never opened")
    count = 1
    for length in shape:
        count *= length
    if min(shape, default=0) < 0 or count * dtype.itemsize != size - stream.tell():
        raise ValueError(f"it declares {dtype}{list(shape)} and has {size - stream.tell()} bytes of data")
    return shape, fortran, dtype


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
            header = _npy_header(stream, path.stat().st_size)
            found = _stored("array", path, stream.tell(), header)
    except DAMAGE as error:
        raise damaged(path, error) from error
    return Content(skipped={"array": found}) if isinstance(found, str) else Content({"array": found})


def _npz(path: Path) -> Content:
    tensors: dict[str, Stored] = {}
    skipped: dict[str, str] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({m.filename for m in members}) != len(members):
                raise ValueError("two members have the same name")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if name == member.filename:
                    skipped[name] = "a member that is no .npy"
                    continue
                spooled, begin = _member(archive, member, path)
                with open(spooled, "rb") as stream:
                    stream.seek(begin)
                    header = _npy_header(_Part(stream, begin), member.file_size)
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


_spooled: dict[tuple[str, str], Any] = {}


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
    target = tempfile.NamedTemporaryFile(prefix="whydiff-npz-")  # noqa: SIM115 - lives as long as the comparison
    with archive.open(member) as stream:
        left = member.file_size
        while block := stream.read(min(1 << 20, left + 1)):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{member.filename} is longer than the archive says")
            target.write(block)
    target.flush()
    _spooled[(str(path), member.filename)] = target
    return Path(target.name), 0


def forget_spooled() -> None:
    """Delete the temporary files of compressed archives."""
    for target in _spooled.values():
        target.close()
    _spooled.clear()


def _torch(path: Path) -> Content:
    try:
        adapter: Any = for_framework("torch")
    except ModuleNotFoundError as error:
        raise UsageError(
            "Reading this file needs torch.", where=str(path), next_step="pip install 'whydiff[torch]'"
        ) from error
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

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".jsonl":
            document: Any = [json.loads(line, parse_constant=constant) for line in text.splitlines() if line.strip()]
        else:
            document = json.loads(text, parse_constant=constant)
        return Content(*_flattened(document))
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, error) from error


def _flattened(document: Any) -> tuple[dict[str, Stored], dict[str, Any]]:
    """Lists of numbers become tensors; everything else a scalar under its path."""
    tensors: dict[str, Stored] = {}
    values: dict[str, Any] = {}
    for name, value in _leaves(document, "", 0):
        array = _array(value)
        if array is not None:
            tensors[name] = in_memory(name, array)
        else:
            values[name] = value
    return tensors, values


def _leaves(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEP:
        raise ValueError(f"nested deeper than {_DEEP} levels")
    if isinstance(value, dict):
        if not value:
            yield path or "(all)", "{}"
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list) and _array(value) is None:
        if not value:
            yield path or "(all)", "[]"
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]", depth + 1)
    else:
        yield path or "(all)", value


def _array(value: Any) -> np.ndarray[Any, Any] | None:
    """A list of whole numbers or of floats as an array; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    kinds = {type(item) for item in value}
    if kinds == {int} and all(-(2**63) <= item < 2**63 for item in value):
        return np.array(value, np.int64)
    return np.array(value, np.float64) if kinds and kinds <= {float} else None


def _columns(path: Path) -> Content:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError(
            "Reading this file needs pyarrow.", where=str(path), next_step="pip install pyarrow"
        ) from error
    try:
        table = (
            pyarrow.parquet.read_table(path, memory_map=True)
            if path.suffix.lower() == ".parquet"
            else pyarrow.csv.read_csv(path)
        )
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error
    tensors: dict[str, Stored] = {}
    values: dict[str, Any] = {"(rows)": table.num_rows}
    skipped: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        numeric = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)
        if numeric and not column.null_count:
            tensors[name] = in_memory(name, column.to_numpy())
        elif column.null_count and numeric:
            filled = column.cast("float64").to_numpy()
            tensors[name] = in_memory(name, filled)
        elif pyarrow.types.is_nested(kind):
            skipped[name] = f"columns of type {kind} are not compared"
        else:
            tensors[name] = in_memory(name, _text_digests(column))
    return Content(tensors, values, skipped)


def _text_digests(column: Any) -> np.ndarray[Any, Any]:
    """One 64-bit digest per text, so that texts are compared row by row."""
    import hashlib

    return np.array(
        [
            int.from_bytes(hashlib.blake2b(repr(item).encode(), digest_size=8).digest(), "little")
            for item in column.to_pylist()
        ],
        np.uint64,
    )


_READERS: dict[str, Callable[[Path], Content]] = {
    ".safetensors": _safetensors,
    ".npy": _npy,
    ".npz": _npz,
    ".json": _json,
    ".jsonl": _json,
    ".parquet": _columns,
    ".csv": _columns,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _torch),
}
TEXT = frozenset({".json", ".jsonl", ".csv"})
