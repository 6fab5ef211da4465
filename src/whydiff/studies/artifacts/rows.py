"""Rows of two tables paired by their id column, where the tables hold them in another order or not all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.studies.artifacts.content import Content
from whydiff.studies.artifacts.records import Item
from whydiff.studies.artifacts.relations import MOST, bits
from whydiff.studies.artifacts.sources import InMemory, Stored

IDS = ("id", "uid", "uuid", "_id", "key", "docid", "doc_id", "pid", "rid", "request_id", "sample_id", "custom_id")
"""Columns that name a row, the surest first."""
ROWS = "(rows)"
Array = np.ndarray[Any, Any]


def id_of(names: Sequence[str]) -> str | None:
    """The column that names a row; None if none does."""
    known = {name.lower(): name for name in names}
    return next((known[name] for name in IDS if name in known), None)


def by_id(ours: Content, theirs: Content) -> tuple[Content, Content, list[Item], str]:
    """Both tables with the rows that both have, in the reference's order; what only one has; a note.

    As they are, where there is no column of unique ids or the common ids stand in the same rows.
    """
    as_they_are: tuple[Content, Content, list[Item], str] = (ours, theirs, [], "")
    name = id_of([name for name in ours.tensors if name in theirs.tensors])
    if name is None or ROWS not in ours.values or ROWS not in theirs.values:
        return as_they_are
    sides = [side.tensors[name] for side in (ours, theirs)]
    if any(len(side.shape) != 1 or not side.is_integer for side in sides) or sides[0].digests != sides[1].digests:
        return as_they_are
    ids = [bits(side) for side in sides]
    if np.array_equal(ids[0], ids[1]) or any(len(np.unique(side)) < len(side) for side in ids):
        return as_they_are
    _, first, second = np.intersect1d(ids[0], ids[1], assume_unique=True, return_indices=True)
    if not first.size or np.array_equal(first, second):  # the rows that both have are in the same places
        return as_they_are
    order = np.argsort(first, kind="stable")
    kept = [_kept(side, rows, int(side.values[ROWS])) for side, rows in ((ours, first[order]), (theirs, second[order]))]
    lone = [len(side) - first.size for side in ids]
    items = [
        Item(
            name=ROWS,
            kind="value",
            status="differs",
            reference=f"{len(ids[0])} rows",
            candidate=f"{len(ids[1])} rows",
            reason=f"{lone[0]} rows only in the reference, {lone[1]} only in the candidate, by {name}",
            structural=True,
        )
    ]
    return kept[0], kept[1], items if any(lone) else [], f"rows are paired by their {name}"


def _kept(side: Content, rows: Array, total: int) -> Content:
    tensors = {name: _taken(stored, rows, total) for name, stored in side.tensors.items()}
    values: Mapping[str, Any] = {**side.values, ROWS: len(rows)}
    return replace(side, tensors=tensors, values=values)


def _taken(stored: Stored, rows: Array, total: int) -> Stored:
    if not stored.shape or stored.shape[0] != total or stored.numbers > MOST:
        return stored
    line = np.ascontiguousarray(bits(stored)[rows]).reshape(-1)
    return replace(stored, shape=(len(rows), *stored.shape[1:]), source=InMemory(line), order="C")
