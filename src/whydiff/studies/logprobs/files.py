"""JSONL, parquet and npz files of log-probabilities; read whole, nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store import strict
from whydiff.capturing.store.tensor_files import DAMAGE
from whydiff.errors import MissingPackageError, UsageError
from whydiff.garbage import not_collecting
from whydiff.studies.artifacts.content import damaged, forget_spooled
from whydiff.studies.artifacts.readers import reader_for
from whydiff.studies.logprobs.fields import Fields, guess
from whydiff.studies.logprobs.log import Column, Log, from_columns

Given = Mapping[str, str]
Side = str | os.PathLike[str] | Mapping[str, Any]
"""A file, or its columns: name → values (lists, or lists of lists, or arrays)."""
END = "\n"
_DECODER = json.JSONDecoder(object_pairs_hook=strict.once)
CHARACTERS = 1 << 19
"""Of a JSONL file that are parsed at a time, and the rest of the last line."""


def read(side: Side, given: Given | None = None, name: str = "") -> Log:
    """The log-probabilities of a file, or of columns in memory.

    Args:
        side: see `Side`.
        given: role → name of its column (`whydiff.studies.logprobs.fields.KNOWN`); the others are guessed.
        name: what columns in memory are called.

    Raises:
        UsageError: another kind of file, no such file, or no column of log-probabilities.
        TraceFormatError: damaged.
    """
    if isinstance(side, Mapping):
        fields = guess(side, given or {}, name)
        return from_columns(name, fields, {role: _in_memory(side[one]) for role, one in fields.found().items()})
    path = Path(side)
    if path.suffix.lower() not in _READERS or not path.is_file():
        raise UsageError(
            "These are no log-probabilities." if path.exists() else "There is no such file.",
            where=str(path),
            actual=path.suffix or "(no suffix)",
            expected=f"a file that ends in {', '.join(_READERS)}",
        )
    try:
        fields, columns = _READERS[path.suffix.lower()](path, given or {})
        return from_columns(str(path), fields, columns)  # where a row may hold what its column does not
    except DAMAGE as error:
        raise damaged(path, error) from error


def _in_memory(values: Any) -> Column:
    if isinstance(values, np.ndarray):
        return _array(values)
    rows = list(values)
    return Column.of([row.tolist() if isinstance(row, np.ndarray) else row for row in rows])


def _array(values: np.ndarray[Any, Any]) -> Column:
    if values.ndim < 2:
        return Column(values.reshape(-1))
    return Column(values.reshape(-1), np.full(len(values), values[0].size if len(values) else 0, np.int64))


Found = tuple[Fields, dict[str, Column]]


def _jsonl(path: Path, given: Given) -> Found:
    with open(path, encoding="utf-8") as file, not_collecting():
        pieces = _records(file)
        first: list[dict[str, Any]] = next(pieces, [{}])
        fields = guess(dict(_named(first[0])), given, str(path))
        ways = {role: tuple(name.split(".")) for role, name in fields.found().items()}
        columns: dict[str, list[Column]] = {}
        for rows in chain([first], pieces):
            values = {
                role: list(map(itemgetter(way[0]), rows)) if len(way) == 1 else [_at(row, way) for row in rows]
                for role, way in ways.items()
            }
            for role, some in _unfolded(values).items():
                columns.setdefault(role, []).append(Column.of(some))
    return fields, {role: Column.joined(some) for role, some in columns.items()}


def _unfolded(values: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Entries of several parts as columns: SGLang's [log-probability, id, text], OpenAI's {"logprob": …, "token": …}."""
    rows = values["logprobs"]
    sample = next((row[0] for row in rows if isinstance(row, list) and row), None)
    if not isinstance(sample, list | dict):
        return values
    at: tuple[Any, Any] = (0, 1) if isinstance(sample, list) else ("logprob", "token")
    tokens = {"tokens": [[one[at[1]] for one in row] for row in rows]}
    return {**tokens, **values, "logprobs": [[one[at[0]] for one in row] for row in rows]}


def _records(file: Any) -> Iterator[list[dict[str, Any]]]:
    """The objects of some lines at a time, which is three times as fast as one by one."""
    while text := file.read(CHARACTERS):
        if rows := _objects(text + file.readline()):
            if set(map(type, rows)) != {dict}:
                raise ValueError("a line holds something that is no object")
            yield rows


def _objects(text: str) -> list[Any]:
    """What whole lines hold: a line ends where no value of JSON goes on; empty ones hold nothing."""
    try:
        return list(_DECODER.decode(f"[{text.strip().replace(END, ',')}]"))
    except json.JSONDecodeError:
        return list(_DECODER.decode(f"[{','.join(filter(str.strip, text.split(END)))}]"))


def _named(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a nested record under names joined by dots."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _named(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _at(record: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        record = record[name]
    return record


def _parquet(path: Path, given: Given) -> Found:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingPackageError.of(error, f"Reading {path}") from error
    try:
        with parquet.ParquetFile(path) as file:
            fields = guess(file.schema_arrow.names, given, str(path))
            table = file.read(columns=list(fields.found().values()))
        return fields, {role: _arrow(table.column(name)) for role, name in fields.found().items()}
    except pyarrow.ArrowException as error:
        raise damaged(path, error) from error


def _arrow(column: Any) -> Column:
    from pyarrow import compute, types

    lengths = None
    if types.is_list(column.type) or types.is_large_list(column.type) or types.is_fixed_size_list(column.type):
        lengths = compute.fill_null(compute.list_value_length(column), 0).to_numpy().astype(np.int64)
        column = compute.list_flatten(column)
    if types.is_integer(column.type) or types.is_floating(column.type) or types.is_boolean(column.type):
        return Column(column.to_numpy(), lengths)
    return Column(column.to_pylist(), lengths)


def _npz(path: Path, given: Given) -> Found:
    reader = reader_for(path)
    assert reader is not None
    try:
        content = reader(path)
        fields = guess(content.tensors, given, str(path))
        columns = {}
        for role, name in fields.found().items():
            stored = content.tensors[name]
            bits = np.array(stored.source.line(0, stored.numbers))
            values = bits if bits.dtype.name == stored.dtype else bits.view(stored.dtype)
            columns[role] = _array(values.reshape(stored.shape, order="C" if stored.order == "C" else "F"))
        return fields, columns
    finally:
        forget_spooled()


_READERS: dict[str, Callable[[Path, Given], Found]] = {".jsonl": _jsonl, ".parquet": _parquet, ".npz": _npz}
