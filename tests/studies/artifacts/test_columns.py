"""Parquet and CSV: columns by name, nulls apart from zeros, texts row by row, damaged files counted."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from whydiff import compare_artifacts
from whydiff.studies.artifacts import ArtifactComparison, Item, columns, content

Trees = tuple[Path, Path]
FORMATS = pytest.mark.parametrize("suffix", ["parquet", "csv"])
COLUMNS: dict[str, Any] = {
    "id": pa.array([10, 20, 30, 2**53 + 1]),
    "score": pa.array([0.5, 1.5, 2.5, 3.5]),
    "word": pa.array(["a", "b", "é", "a"]),
}


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    pair = tmp_path / "reference", tmp_path / "candidate"
    for tree in pair:
        tree.mkdir()
    return pair


def write(trees: Trees, suffix: str, *both: dict[str, Any]) -> ArtifactComparison:
    for tree, found in zip(trees, both, strict=True):
        table = pa.table(found)
        path = str(tree / f"x.{suffix}")
        csv.write_csv(table, path) if suffix == "csv" else parquet.write_table(table, path)
    return compare_artifacts(*trees)


def items(found: ArtifactComparison) -> dict[str, Item]:
    return {item.name: item for file in found.files for item in file.items}


@FORMATS
def test_equal_columns_in_other_files(trees: Trees, suffix: str) -> None:
    assert write(trees, suffix, COLUMNS, COLUMNS).status == "identical"
    with open(trees[1] / f"x.{suffix}", "r+b") as file:  # the bytes differ, no value does
        if suffix == "csv":
            data = file.read().replace(b"0.5", b"0.50")
            file.seek(0)
            file.write(data)
        else:
            parquet.write_table(pa.table(COLUMNS), str(trees[1] / "x.parquet"), compression="none")
    found = compare_artifacts(*trees)
    assert (found.status, found.identical) == ("identical", 1)


@FORMATS
def test_a_changed_integer_differs_however_small_the_change(trees: Trees, suffix: str) -> None:
    changed = {**COLUMNS, "id": pa.array([10, 20, 30, 2**53])}  # no float64 tells them apart
    (item,) = items(write(trees, suffix, COLUMNS, changed)).values()
    assert (item.name, item.kind, item.status, item.max_abs) == ("id", "integer", "differs", 1.0)
    assert (item.elements, item.equal_share) == (4, 0.75)


@FORMATS
@pytest.mark.parametrize(("delta", "status"), [(1e-6, "within tolerance"), (0.1, "differs")])
def test_a_changed_float_is_judged_by_its_tolerance(trees: Trees, suffix: str, delta: float, status: str) -> None:
    changed = {**COLUMNS, "score": pa.array([0.5, 1.5, 2.5 + delta, 3.5])}
    (item,) = items(write(trees, suffix, COLUMNS, changed)).values()
    assert (item.name, item.kind, item.status) == ("score", "float", status)
    assert item.max_abs == pytest.approx(delta)


@FORMATS
def test_a_missing_column_and_a_missing_row(trees: Trees, suffix: str) -> None:
    found = items(write(trees, suffix, COLUMNS, {name: COLUMNS[name] for name in ("id", "score")}))
    assert found["word"].reason == "only the reference has it"
    found = items(write(trees, suffix, COLUMNS, {name: column[:3] for name, column in COLUMNS.items()}))
    assert found["id"].reason == "the shapes differ" and found["(rows)"].candidate == "3"
    assert (found["word"].reference, found["word"].candidate) == ("text[4]", "text[3]")


@FORMATS
def test_a_null_is_neither_zero_nor_nan(trees: Trees, suffix: str) -> None:
    ours = {"n": pa.array([1, None, 2**53 + 1]), "x": pa.array([0.5, None, 2.5])}
    assert write(trees, suffix, ours, ours).status == "identical"
    theirs = {"n": pa.array([1, 0, 2**53 + 1]), "x": pa.array([0.5, float("nan"), 2.5])}
    found = items(write(trees, suffix, ours, theirs))
    assert found["n (nulls)"].reason == found["x (nulls)"].reason == "only the reference has it"
    assert "n" not in found  # its numbers are exact beside nulls, too
    changed = {**ours, "n": pa.array([1, None, 2**53])}
    assert items(write(trees, suffix, ours, changed))["n"].kind == "integer"
    moved = {"n": pa.array([None, 1, 2**53 + 1]), "x": ours["x"]}
    found = items(write(trees, suffix, ours, moved))
    assert found["n (nulls)"].reason == "2 of 3 elements differ"


@FORMATS
def test_texts_are_compared_row_by_row(trees: Trees, suffix: str) -> None:
    changed = {**COLUMNS, "word": pa.array(["a", "b", "e", "a"])}
    (item,) = items(write(trees, suffix, COLUMNS, changed)).values()
    assert (item.name, item.kind, item.equal_share, item.max_abs) == ("word", "value", 0.75, None)
    assert item.reason == "1 of 4 texts differ, the first in row 2"
    numbers = {**COLUMNS, "word": pa.array([1, 2, 3, 4])}
    assert items(write(trees, suffix, COLUMNS, numbers))["word"].reason == "texts on one side, numbers on the other"


KINDS: dict[str, tuple[Any, Any]] = {
    "bool": (pa.array([True, False, None]), pa.array([True, True, None])),
    "uint8": (pa.array([1, 2], pa.uint8()), pa.array([1, 3], pa.uint8())),
    "float16": (pa.array(np.array([1, 2], np.float16)), pa.array(np.array([1, 3], np.float16))),
    "date": (pa.array([datetime.date(2026, 1, 1)]), pa.array([datetime.date(2026, 1, 2)])),
    "nanoseconds": (pa.array([1], pa.timestamp("ns")), pa.array([2], pa.timestamp("ns"))),
    "another zone": (pa.array([1], pa.timestamp("us", "UTC")), pa.array([1], pa.timestamp("us"))),
    "another unit": (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("ms"))),
    "decimal": (pa.array([decimal.Decimal("1.50")]), pa.array([decimal.Decimal("1.51")])),
    "bytes": (pa.array([b"\xff\x00"]), pa.array([b"\xff\x01"])),
    "large text": (pa.array(["a", None], pa.large_string()), pa.array(["b", None], pa.large_string())),
    "coded text": (pa.array(["a", "b"]).dictionary_encode(), pa.array(["a", "c"]).dictionary_encode()),
    "nothing": (pa.nulls(3), pa.nulls(4)),
    "vectors": (pa.array([[1.0, 2.0], [3.0, 4.0]]), pa.array([[1.0, 2.0], [3.0, 5.0]])),
    "fixed vectors": (pa.array([[1, 2]], pa.list_(pa.int32(), 2)), pa.array([[1, 3]], pa.list_(pa.int32(), 2))),
    "lists": (pa.array([[1], [2, 3]]), pa.array([[1, 2], [3]])),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_column_is_told_apart(trees: Trees, kind: str) -> None:
    ours, theirs = KINDS[kind]
    assert write(trees, "parquet", {"c": ours}, {"c": ours}).status == "identical"
    found = write(trees, "parquet", {"c": ours}, {"c": theirs})
    assert found.status == "differs" and not found.not_compared


def test_vectors_keep_their_shape_and_other_nested_columns_are_counted(trees: Trees) -> None:
    ours = {"v": pa.array([[1.0, 2.0], [3.0, 4.0]]), "s": pa.array([{"a": 1}, {"a": 2}])}
    found = write(trees, "parquet", ours, {**ours, "v": pa.array([[1.0, 2.0], [3.0, 5.0]])})
    assert items(found)["v"].reference == "float64[2,2]"
    assert {count.reason for count in found.not_compared} == {
        f"{side}: columns of type struct<a: int64> are not compared" for side in ("reference", "candidate")
    }


def test_columns_are_read_in_batches(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "BATCH_ROWS", 3)
    ours = {"n": pa.array([None if i == 7 else i for i in range(10)]), "t": pa.array([str(i % 4) for i in range(10)])}
    theirs = {"n": pa.array([None if i == 7 else i + (i == 9) for i in range(10)]), "t": ours["t"]}
    (item,) = items(write(trees, "parquet", ours, theirs)).values()
    assert (item.name, item.elements, item.equal_share) == ("n", 10, 0.9)


BROKEN = {
    "cut.parquet": b"PAR1" + b"\0" * 40,
    "text.parquet": b"a,b\n1,2\n",
    "empty.parquet": b"",
    "ragged.csv": b"a,b\n1,2\n1,2,3\n",
    "bytes.csv": b"\xff\xfe\x00\x01,\n\x00",
    "twice.csv": b"a,a\n1,2\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_table_is_counted_and_the_rest_is_compared(trees: Trees, name: str) -> None:
    for number, tree in enumerate(trees):
        (tree / name).write_bytes(BROKEN[name] + b"\n" * number)
    found = write(trees, "parquet", COLUMNS, COLUMNS)
    (file,) = found.files
    assert (file.path, file.items[0].status) == (name, "not compared")
    assert [count.examples for count in found.not_compared] == [(name,)]
    assert "damaged or hostile" in found.not_compared[0].reason


def test_a_table_that_unpacks_to_more_than_there_is_room_for(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = ({"n": pa.array(np.full(1 << 20, n))} for n in range(2))
    assert items(write(trees, "parquet", ours, theirs))["n"].elements == 1 << 20
    assert (trees[0] / "x.parquet").stat().st_size < 20_000  # 8 MiB in 20 kB
    monkeypatch.setattr(content, "_free", lambda path: 1 << 20)
    found = compare_artifacts(*trees)
    assert "half of the free space" in found.not_compared[0].reason
    assert not content._spools
