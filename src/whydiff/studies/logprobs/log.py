"""The log-probabilities of one side, as flat arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from zlib import crc32

import numpy as np

from whydiff.errors import UsageError
from whydiff.studies.logprobs.fields import Fields

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column: a value for each row, or a list for each row with its length."""

    values: Any
    lengths: Array | None = None

    @classmethod
    def of(cls, rows: Sequence[Any]) -> Column:
        """A column of Python values; lists are joined; numbers of one kind become an array."""
        if not rows or not isinstance(rows[0], list | tuple):
            return cls(_numbers(rows))
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = list(chain.from_iterable(rows))
        array = np.array(flat) if flat and not isinstance(flat[0], str | list | dict) else None
        return cls(flat if array is None else array, lengths)

    @classmethod
    def joined(cls, pieces: Sequence[Column]) -> Column:
        """Pieces of one column, one after the other.

        Raises:
            ValueError: some rows hold lists and others do not.
        """
        lengths = [piece.lengths for piece in pieces if piece.lengths is not None]
        if 0 < len(lengths) < len(pieces):
            raise ValueError("a column holds lists in some rows only")
        if all(isinstance(piece.values, np.ndarray) for piece in pieces):
            values: Any = np.concatenate([piece.values for piece in pieces])
        else:
            values = list(chain.from_iterable(piece.values for piece in pieces))
        return cls(values, np.concatenate(lengths) if lengths else None)


def _numbers(rows: Sequence[Any]) -> Any:
    """An array of the same numbers, where that holds them all as they are; else the rows."""
    kinds = set(map(type, rows))
    kind = next((one for one in (int, float) if kinds == {one}), None)
    if kind is None or (kind is int and not -(2**63) <= min(rows) <= max(rows) < 2**63):
        return rows
    return np.fromiter(rows, np.dtype(kind), len(rows))


@dataclass(frozen=True, slots=True, eq=False)
class Log:
    """Sequences of tokens with their log-probabilities.

    Attributes:
        source: file, or what the caller calls it.
        fields: the columns that were read.
        ids: one for each sequence.
        starts: first token of each sequence, and the number of tokens at the end, int64.
        tokens: int64; None: the file has none.
        logprobs: float64; NaN where there is none.
        counts: bool; False for masked tokens between others; prompt and padding around them are left out.
        masked: how many tokens are masked, prompt or padding.
        step, worker: one for each sequence (any value); None: not known.
        entropy: float64, one for each token; None: not known.
    """

    source: str
    fields: Fields
    ids: tuple[Any, ...]
    starts: Array
    tokens: Array | None
    logprobs: Array
    counts: Array
    masked: int = 0
    step: tuple[Any, ...] | None = None
    worker: tuple[Any, ...] | None = None
    entropy: Array | None = None

    @property
    def lengths(self) -> Array:
        """Tokens of each sequence."""
        return np.diff(self.starts)


def from_columns(source: str, fields: Fields, columns: Mapping[str, Column]) -> Log:
    """A log from columns by role (`whydiff.studies.logprobs.fields.KNOWN`).

    Raises:
        UsageError: the columns do not fit each other.
    """
    if columns["logprobs"].lengths is None:
        columns = _gathered(columns)
    lengths = columns["logprobs"].lengths
    assert lengths is not None
    rows = len(lengths)
    values = _sizes(columns["logprobs"].values, source)
    tokens = columns.get("tokens")
    given = tokens is not None and tokens.lengths is not None
    read = _tokens(_fitted(tokens, lengths, source)) if tokens is not None and given else None
    response_only = tokens is not None and given and len(tokens.values) > len(values)
    counts = np.ones(len(values), bool)
    within = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    for role in ("mask", "length") if response_only else ("mask", "prompt", "length"):
        if role in columns:
            counts &= _counted(role, columns[role], lengths, within, source)
    entropy = columns.get("entropy")
    fits = entropy is not None and entropy.lengths is not None and len(entropy.values) == len(values)
    kept = _between(counts, lengths)
    return Log(
        source=source,
        fields=fields,
        ids=tuple(_per_row(columns.get("id"), rows) or range(rows)),
        starts=np.concatenate([[0], np.cumsum(_sums(kept, lengths))]).astype(np.int64),
        tokens=None if read is None else read[kept],
        logprobs=values[kept],
        counts=counts[kept],
        masked=int((~counts).sum()),
        step=_per_row(columns.get("step"), rows),
        worker=_per_row(columns.get("worker"), rows),
        entropy=_sizes(entropy.values, source)[kept] if fits and entropy is not None else None,
    )


def _between(counts: Array, lengths: Array) -> Array:
    """From the first to the last token of each row that counts: what is around them is prompt or padding."""
    running = np.cumsum(counts)
    ends = np.cumsum(lengths)
    before = np.concatenate([[0], running])[ends - lengths]
    after = np.concatenate([[0], running])[ends]
    kept: Array = (running > np.repeat(before, lengths)) & (running - counts < np.repeat(after, lengths))
    return kept


def _sums(kept: Array, lengths: Array) -> Array:
    running = np.concatenate([[0], np.cumsum(kept)])
    ends = np.cumsum(lengths)
    sums: Array = running[ends] - running[ends - lengths]
    return sums


def _gathered(columns: Mapping[str, Column]) -> dict[str, Column]:
    """Rows of one token each as sequences: by id, in the order of position, else of the file."""
    rows = len(columns["logprobs"].values)
    names = columns["id"].values if "id" in columns else [0] * rows
    names = names.tolist() if isinstance(names, np.ndarray) else names
    code = {name: n for n, name in enumerate(dict.fromkeys(names))}
    group = np.fromiter(map(code.__getitem__, names), np.int64, rows)
    if "position" in columns:
        order = np.lexsort((np.asarray(columns["position"].values, np.float64), group))
    else:
        order = np.argsort(group, kind="stable")
    lengths = np.bincount(group, minlength=len(code))
    firsts = order[np.concatenate([[0], np.cumsum(lengths)[:-1]])] if rows else order
    found = {"id": Column(list(code))}
    for role, column in columns.items():
        if role in ("id", "position") or column.lengths is not None:
            continue
        values = column.values if isinstance(column.values, np.ndarray) else np.array(column.values, object)
        whole = role in ("step", "worker", "prompt", "length")
        found[role] = Column(values[firsts].tolist()) if whole else Column(values[order], lengths)
    return found


def _fitted(column: Column, lengths: Array, source: str) -> Any:
    """Tokens for each log-probability: longer lists of tokens (a prompt before them) are cut at the front."""
    own = column.lengths
    assert own is not None
    if np.array_equal(own, lengths):
        return column.values
    if len(own) != len(lengths) or (own < lengths).any():
        raise UsageError(
            "A row has more log-probabilities than tokens.",
            where=source,
            expected="one log-probability for each token",
            next_step="name the field that holds the tokens: --field tokens=NAME",
        )
    cut = np.cumsum(own - lengths)
    return np.asarray(column.values)[np.arange(lengths.sum()) + np.repeat(cut, lengths)]


def _counted(role: str, column: Column, lengths: Array, within: Array, source: str) -> Array:
    if role == "mask":
        if column.lengths is None or not np.array_equal(column.lengths, lengths):
            raise UsageError(
                "The mask does not fit the log-probabilities.",
                where=source,
                expected="one number for each token",
                next_step="name another field: --field mask=NAME",
            )
        return np.asarray(_floats(column.values, source) != 0)
    limits = np.repeat(_floats(column.values, source).astype(np.int64), lengths)
    return np.asarray(within >= limits if role == "prompt" else within < limits)


def _per_row(column: Column | None, rows: int) -> tuple[Any, ...] | None:
    """One value for each row; of a list its first (the workers of one sequence are the same)."""
    if column is None:
        return None
    values = column.values.tolist() if isinstance(column.values, np.ndarray) else column.values
    if column.lengths is not None:
        firsts = np.concatenate([[0], np.cumsum(column.lengths)[:-1]])
        values = [values[n] if size else None for n, size in zip(firsts, column.lengths, strict=True)]
    if len(values) != rows:
        return None
    return tuple(values) if set(map(type, values)) <= {int, str} else tuple(map(_plain, values))


def _plain(value: Any) -> Any:
    """A key that can be compared across formats: whole numbers are numbers, everything else text."""
    if isinstance(value, bool | np.bool_):
        return int(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    return int(value) if isinstance(value, int | np.integer) else str(value)


def _floats(values: Any, source: str) -> Array:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(
            "A column holds something that is no number.",
            where=source,
            actual=str(error)[:200],
            next_step="name another field: --field logprobs=NAME",
        ) from error


def _sizes(values: Any, source: str) -> Array:
    """Floats whose squares and sums are floats too: what no float32 holds (a mask's lowest float64) is infinite."""
    found = _floats(values, source)
    beyond = np.abs(found) > np.finfo(np.float32).max
    return np.where(beyond, np.copysign(np.inf, found), found) if beyond.any() else found


def _tokens(values: Any) -> Array:
    """Ids as they are; texts as a checksum each."""
    array = np.asarray(values)
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    if array.dtype.kind == "f" and np.isfinite(array).all():
        return array.astype(np.int64)
    return np.fromiter(
        (v if isinstance(v, int) else crc32(str(v).encode()) for v in array.tolist()), np.int64, array.size
    )
