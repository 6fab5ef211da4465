"""Parquet and CSV as columns of numbers, through pyarrow.

Parquet is unpacked batch by batch into temporary files, so that memory does not grow with the table; a CSV
file (at most `whydiff.studies.artifacts.readers.MAX_TEXT` bytes) is read at once. Numbers, dates and times
keep their bits; a text becomes one 64-bit digest per row; a null becomes a zero beside a second column that
says where the nulls are, since a null is neither 0 nor NaN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.tensor_files import DAMAGE
from whydiff.errors import MissingPackageError
from whydiff.studies.artifacts.content import Content, Spool, damaged
from whydiff.studies.artifacts.sources import FileRange, Stored, real_bits

BATCH_ROWS = 1 << 16
"""Rows of one column that are in memory at a time."""
NULLS = "{} (nulls)"
"""Name of the column that says where another one has nulls; absent if there are none."""
LENGTHS = "{} (lengths)"
"""Name of the column with the lengths of another one's lists; absent if all are equal."""

Array = np.ndarray[Any, Any]


def read_columns(path: Path) -> Content:
    """The columns of a ``.parquet`` or ``.csv`` file.

    Raises:
        MissingPackageError: pyarrow is not installed.
        TraceFormatError: damaged or hostile.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, f"Reading {path}") from error
    try:
        rows, kinds, batches = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
        if len({name for name, _ in kinds}) != len(kinds):
            raise ValueError("two columns have the same name")
        table = _Table(pyarrow)
        for name, kind in kinds:
            try:
                table.add(name, kind, rows, batches(name))
            except pyarrow.ArrowNotImplementedError:
                table.skipped[name] = f"columns of type {kind} are not compared"
        return Content(table.tensors, {"(rows)": rows, **table.values}, table.skipped)
    except (pyarrow.ArrowException, *DAMAGE) as error:
        raise damaged(path, error) from error


Opened = tuple[int, list[tuple[str, Any]], Callable[[str], Iterator[Any]]]


def _parquet(path: Path) -> Opened:
    from pyarrow import parquet, types

    with parquet.ParquetFile(path) as plain:
        schema, rows = plain.schema_arrow, plain.metadata.num_rows
    # Texts stay coded: a table may name one long text a million times.
    texts = [field.name for field in schema if types.is_string(field.type) or types.is_binary(field.type)]
    file = parquet.ParquetFile(path, memory_map=True, read_dictionary=texts)

    def batches(name: str) -> Iterator[Any]:
        for batch in file.iter_batches(BATCH_ROWS, columns=[name], use_threads=False):
            if batch.num_columns != 1:
                raise ValueError(f"{batch.num_columns} columns answer to the name {name!r:.60}")
            yield batch.column(0)

    return rows, [(field.name, field.type) for field in schema], batches


def _csv(path: Path) -> Opened:
    from pyarrow import csv, string

    # Only an empty field is a null: pyarrow would take "nan" and "NA" for one, too.
    table = csv.read_csv(path, convert_options=csv.ConvertOptions(null_values=[""]))
    if len(set(table.column_names)) == table.num_columns:
        texts = csv.ConvertOptions(
            null_values=[""], strings_can_be_null=True, column_types=dict.fromkeys(table.column_names, string())
        )
        written = csv.read_csv(path, convert_options=texts)
        for number, name in enumerate(table.column_names):
            if _loses(table.column(name), written.column(name)):
                table = table.set_column(number, name, written.column(name))

    def batches(name: str) -> Iterator[Any]:
        yield from table.column(name).chunks

    return table.num_rows, [(field.name, field.type) for field in table.schema], batches


def _loses(numbers: Any, texts: Any) -> bool:
    """Whether fields are something else than the numbers that pyarrow reads: 007 is not 7, and a long id is no float64."""
    from pyarrow import compute, string, types

    if types.is_integer(numbers.type):
        same = compute.equal(compute.utf8_trim_whitespace(texts), numbers.cast(string()))
        return not compute.all(same, min_count=0).as_py()
    if types.is_floating(numbers.type):
        long = compute.match_substring_regex(texts, r"^\s*[-+]?[0-9]{16,}\s*$")
        return bool(compute.any(long, min_count=0).as_py())
    return False


class _Table:
    """The columns of one file, each in its part of three temporary files."""

    def __init__(self, pyarrow: Any) -> None:
        self.arrow = pyarrow
        self.numbers, self.nulls, self.lengths = Spool(), Spool(), Spool()
        self.tensors: dict[str, Stored] = {}
        self.values: dict[str, Any] = {}
        self.skipped: dict[str, str] = {}

    def add(self, name: str, kind: Any, rows: int, pieces: Iterable[Any]) -> None:
        """One column; ``rows`` is what the file declares."""
        types = self.arrow.types
        kind = kind.value_type if types.is_dictionary(kind) else kind
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        element = kind.value_type if listed else kind
        dtype = _dtype(element, types)
        if (listed or types.is_nested(kind)) and dtype is None:
            self.skipped[name] = f"columns of type {kind} are not compared"
            return
        begins = self.numbers.size, self.nulls.size, self.lengths.size
        seen = null = 0
        widths: set[int] = set()
        for piece in pieces:
            seen, null = seen + len(piece), null + piece.null_count
            self.nulls.write(_bytes(piece.is_null().to_numpy(zero_copy_only=False)))
            if listed:
                lengths = self._lengths(piece)
                widths.update(np.unique(lengths).tolist())
                self.lengths.write(_bytes(lengths))
                piece = piece.flatten()
                if piece.null_count:
                    self.skipped[name] = "lists that hold nulls are not compared"
                    return
            self.numbers.write(_bytes(self._plain(piece, dtype) if dtype else self._digests(piece)))
        if seen != rows:
            raise ValueError(f"column {name!r:.60} has {seen} rows, the file declares {rows}")
        stored = dtype or "uint64"
        count = (self.numbers.size - begins[0]) // real_bits(stored).itemsize
        shape = (count,) if not listed else (rows, widths.pop()) if len(widths) == 1 else (count,)
        self._put(name, self.numbers, begins[0], stored, shape, digests=dtype is None)
        if null:
            self._put(NULLS.format(name), self.nulls, begins[1], "bool", (rows,))
        if listed and len(shape) == 1:
            self._put(LENGTHS.format(name), self.lengths, begins[2], "int64", (rows,))
        if str(element) != stored:  # a date, a text …: what the numbers stand for
            self.values[f"{name} (type)"] = str(element)

    def _put(
        self, name: str, spool: Spool, begin: int, dtype: str, shape: tuple[int, ...], *, digests: bool = False
    ) -> None:
        if name in self.tensors:
            raise ValueError(f"two columns have the name {name!r:.60}")
        bits = real_bits(dtype)
        source = FileRange(spool.path, begin, int(np.prod(shape, dtype=object)), bits)
        self.tensors[name] = Stored(name, dtype, shape, source, digests=digests)

    def _lengths(self, piece: Any) -> Array:
        from pyarrow import compute

        found: Array = compute.fill_null(compute.list_value_length(piece), 0).to_numpy(zero_copy_only=False)
        return found.astype(np.int64)

    def _plain(self, piece: Any, dtype: str) -> Array:
        """The bits of numbers; nulls are zeros."""
        if self.arrow.types.is_dictionary(piece.type):
            piece = piece.dictionary_decode()
        if dtype == "bool":
            flags: Array = piece.fill_null(False).to_numpy(zero_copy_only=False)
            return flags
        width = real_bits(dtype).itemsize * 8
        bits: Array = piece.view(getattr(self.arrow, f"uint{width}")()).fill_null(0).to_numpy(zero_copy_only=False)
        return bits

    def _digests(self, piece: Any) -> Array:
        """One 64-bit digest per row, so that texts are compared row by row; nulls are zeros."""
        types = self.arrow.types
        if not types.is_dictionary(piece.type):
            if not (types.is_string(piece.type) or types.is_binary(piece.type)):
                piece = piece.cast(self.arrow.large_string())  # decimals, large texts …
            piece = piece.dictionary_encode()
        texts = piece.dictionary.to_pylist()
        table = np.array([*(_digest(text) for text in texts), 0], np.uint64)
        found: Array = table[piece.indices.fill_null(len(texts)).to_numpy(zero_copy_only=False)]
        return found


def _dtype(kind: Any, types: Any) -> str | None:
    """The dtype under which the bits of a type are compared; None: as texts."""
    if types.is_boolean(kind) or types.is_integer(kind):
        return "bool" if types.is_boolean(kind) else str(kind)
    if types.is_floating(kind):
        return f"float{kind.bit_width}"
    if types.is_temporal(kind) and kind.bit_width in (32, 64):
        return f"int{kind.bit_width}"
    return None


def _digest(text: str | bytes | None) -> int:
    data = text.encode() if isinstance(text, str) else text or b""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _bytes(array: Array) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
