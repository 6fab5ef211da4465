"""Opening what somebody else made: only WhydiffError may come out, and nothing outside is touched."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sealed import manifest_of, parts, write_index, write_manifest

from whydiff.capturing.store import TraceWriter, manifest, open_trace, save
from whydiff.errors import TraceFormatError, TraceVersionError, WhydiffError
from whydiff.records import Call, Event, Fingerprint, Leaf, Payload, RecordedTrace, Site, TensorSpec


def reseal(root: Path, rows: list[Any] | None = None, *, raw: list[bytes] | None = None, **changes: Any) -> None:
    """Write index and manifest anew with right checksums, so that only the content is wrong."""
    if rows is not None:
        raw = [json.dumps(row).encode() for row in rows]
    found = manifest_of(root)
    if raw is not None:
        found |= write_index(root, raw)
    write_manifest(root, found | changes)


def rows_of(root: Path) -> list[Any]:
    return parts(root)[1]


def test_resealing_alone_changes_nothing(saved: Path) -> None:
    before = open_trace(saved)
    reseal(saved, rows_of(saved))
    assert open_trace(saved).calls == before.calls  # so that what is refused below is refused for its content


def find(rows: list[Any], word: str) -> list[Any]:
    found: list[Any] = next(row for row in rows if row[0] == word)
    return found


def put(*path: Any, value: Any) -> Callable[[list[Any]], None]:
    """Replace one value: first the line's word, then indices."""

    def change(rows: list[Any]) -> None:
        place = find(rows, path[0])
        for step in path[1:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


BAD_ROWS: dict[str, Callable[[list[Any]], None]] = {
    "index is not the position": put("call", 1, value=1),
    "index is a bool": put("call", 1, value=False),
    "negative string": put("call", 3, value=-1),
    "string beyond the table": put("call", 3, value=10**6),
    "string is a float": put("call", 3, value=1.0),
    "unknown kind": put("call", 4, value="exec"),
    "unknown phase": put("call", 2, 2, value=0),
    "site too short": put("call", 2, value=[0, 1, 2]),
    "negative step": put("call", 2, 3, value=-1),
    "spec beyond the table": put("call", 5, 0, 1, value=99),
    "storage of nothing": put("call", 5, 0, 2, value=77),
    "storage too negative": put("call", 5, 0, 2, value=-2),
    "producer in the future": put("call", 5, 0, 3, value=0),
    "producer too negative": put("call", 5, 0, 3, value=-2),
    "write by a later call": put("call", 6, 0, 3, value=1),
    "lanes too short": put("call", 5, 0, 4, 0, value="abc"),
    "lanes not hex": put("call", 5, 0, 4, 0, value="z" * 32),
    "negative bytes": put("call", 5, 0, 4, 1, value=-1),
    "unknown cover": put("call", 6, 0, 4, 2, value="everything"),
    "event is an object": put("call", 5, 0, value={}),
    "reads is a string": put("call", 5, value="reads"),
    "mutates beyond the reads": put("call", 8, value=[2]),
    "context beyond the contexts": put("call", 9, value=1),
    "context is a list": put("context", 1, value=[]),
    "unknown role": put("leaf", 2, value="secret"),
    "leaf name is a number": put("leaf", 3, value=3),
    "strings hold a number": put("strings", 1, 0, value=3),
    "negative size": put("specs", 1, 0, 0, value=[-1, 3]),
    "size is a float": put("specs", 1, 0, 0, value=[1e300, 3]),
    "strides of another length": put("specs", 1, 0, 3, value=[1]),
    "shard number is a path": put("shard", 1, value="../../etc/passwd"),
    "shard number is not the position": put("shard", 1, value=5),
    "shard of another size": put("shard", 2, value=10**15),
    "payload in an absolute file": put("payload", 5, value="/etc/passwd"),
    "payload in an unknown shard": put("payload", 5, value=1),
    "payload stored as something else": put("payload", 3, value="float32"),
    "payload stored as an object": put("payload", 3, value="object"),
    "payload with many dimensions": put("payload", 4, value=[1] * 100),
    "empty payload key": put("payload", 1, value=""),
    "wrong count at the end": put("end", 2, value=3),
    "unknown line": lambda rows: rows.insert(0, ["import", "os"]),
    "empty line": lambda rows: rows.insert(0, []),
    "object as a line": lambda rows: rows.insert(0, {"call": 1}),
    "number as a line": lambda rows: rows.insert(0, 3),
    "too many fields": lambda rows: find(rows, "call").append(0),
    "the same payload twice": lambda rows: rows.insert(-1, find(rows, "payload")),
    "no end": lambda rows: rows.pop(),
    "lines after the end": lambda rows: rows.append(["strings", []]),
    "bad float": put("call", 7, value={"$float": "huge"}),
    "bad complex": put("call", 7, value={"$complex": [1]}),
    "bad tuple": put("call", 7, value={"$tuple": 1}),
    "list as a key": put("call", 7, value={"$dict": [[[1], 2]]}),
    "duplicate odd key": put("call", 7, value={"$dict": [[1, 2], [1, 3]]}),
}


@pytest.mark.parametrize("change", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_wrong_value_is_refused(change: Callable[[list[Any]], None], saved: Path) -> None:
    rows = rows_of(saved)
    change(rows)
    reseal(saved, rows)
    with pytest.raises(TraceFormatError, match="where: "):
        open_trace(saved)


@pytest.mark.parametrize(
    "text",
    [
        b'["context",{"a":1,"a":2}]',
        b'["context",{"a":NaN}]',
        b'["context",{"a":1e999}]',
        b'["context",{}] []',
        b'["context",{"a":' + b"[" * 100 + b"]" * 100 + b"}]",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"",
        b'["context",{"a":' + b"9" * 5000 + b"}]" if sys.version_info >= (3, 11) else b"",
        b"\xff\xfe",
        b'["context",{"a":"\x00"}]',
    ],
)
def test_text_that_is_not_strict_json_is_refused(text: bytes, saved: Path) -> None:
    raw = [line[9:] for line in (saved / "events.jsonl").read_bytes().splitlines()]
    reseal(saved, raw=[text, *raw])
    with pytest.raises(TraceFormatError, match="line 1\n"):
        open_trace(saved)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("framework", 3),
        ("closed", 1),
        ("complete", None),
        ("note", []),
        ("environment", {}),
        ("environment", []),
        ("observer", None),
        ("observer", {"deterministic": 1, "unchanged": None, "outputs": 0, "note": ""}),
        ("ties", [["a", 1]]),
        ("ties", "ab"),
        ("scalars", []),
        ("scalars", {"$dict": [[1, 2]]}),
        ("config", None),
        ("index_bytes", "3"),
        ("index_bytes", -1),
        ("index_crc32", 0),
        ("format", "zip"),
        ("format", ["x"]),
        ("schema_version", "1"),
        ("schema_version", 0),
        ("schema_version", True),
        ("closed", False),
    ],
)
def test_a_wrong_manifest_is_refused(key: str, value: Any, saved: Path) -> None:
    reseal(saved, **{key: value})
    with pytest.raises(TraceFormatError, match="where: "):
        open_trace(saved)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"format": "whydiff-trace"}', "[" * 100_000, '{"$float":"inf"}'])
def test_a_manifest_of_something_else_is_refused(text: str, saved: Path) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(TraceFormatError):
        open_trace(saved)


def test_a_changed_manifest_is_found(saved: Path) -> None:
    path = saved / "manifest.json"
    path.write_text(path.read_text().replace('"hello"', '"hullo"'))
    with pytest.raises(TraceFormatError, match="changed after it was written"):
        open_trace(saved)


def test_a_newer_trace_says_what_to_do(saved: Path) -> None:
    reseal(saved, schema_version=2, something_new=True)
    with pytest.raises(TraceVersionError, match=r"newer whydiff[^$]*upgrade whydiff"):
        open_trace(saved)


def test_an_older_trace_is_converted_or_says_what_to_do(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "SCHEMA_VERSION", 2)
    with pytest.raises(TraceVersionError, match=r"older whydiff[^$]*Capture the run again"):
        open_trace(saved)
    monkeypatch.setitem(manifest.MIGRATIONS, 1, lambda found: {**found, "note": "converted"})
    assert open_trace(saved).note == "converted"


def test_places_that_are_no_trace(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.bin").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name, found in (
        ("empty", "an empty directory"),
        ("foreign", "model.bin"),
        ("file", "a file"),
        ("nothing", "No such file"),
        ("nul\0", "null"),
    ):
        with pytest.raises(TraceFormatError, match=found):
            open_trace(tmp_path / name)


@pytest.mark.parametrize("name", ["manifest.json", "events.jsonl", "payloads-00000.safetensors"])
def test_files_that_are_links_pipes_or_directories(name: str, saved: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    os.replace(saved / name, outside)
    (saved / name).symlink_to(outside)
    with pytest.raises(TraceFormatError, match="leaves the trace's directory"):
        open_trace(saved)
    (saved / name).unlink()
    (saved / name).mkdir()
    with pytest.raises(TraceFormatError, match="no regular file"):
        open_trace(saved)
    (saved / name).rmdir()
    (saved / name).symlink_to(saved / name)
    with pytest.raises(TraceFormatError):
        open_trace(saved)
    (saved / name).unlink()
    if hasattr(os, "mkfifo"):
        os.mkfifo(saved / name)  # opening it would wait for ever
        with pytest.raises(TraceFormatError, match="no regular file"):
            open_trace(saved)


def replace_shard(root: Path, header: bytes, data: bytes) -> None:
    """Another shard, with the index and manifest made to fit it."""
    head = len(header).to_bytes(8, "little") + header
    (root / "payloads-00000.safetensors").write_bytes(head + data)
    rows = rows_of(root)
    find(rows, "shard")[2:] = [len(head + data), zlib.crc32(head)]
    reseal(root, rows)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [0, 10]}}, b"0" * 10),
        ({"leaf": {"dtype": "U16", "shape": [2**40, 3], "data_offsets": [0, 12]}}, b"0" * 12),
        ({"leaf": {"dtype": "U16", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}, b""),
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [0, 12]}}, b"0" * 13),
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [4, 16]}}, b"0" * 16),
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [12, 0]}}, b"0" * 12),
        ({"leaf": {"dtype": "U16", "shape": [-2, -3], "data_offsets": [0, 12]}}, b"0" * 12),
        ({"leaf": {"dtype": "F64", "shape": [], "data_offsets": [0, 8]}}, b"0" * 8),
        ({"leaf": {"dtype": "OBJ", "shape": [2, 3], "data_offsets": [0, 12]}}, b"0" * 12),
        ({"leaf": {"dtype": "U16", "shape": "23", "data_offsets": [0, 12]}}, b"0" * 12),
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [0, 12], "code": "x"}}, b"0" * 12),
        ({"other": {"dtype": "U16", "shape": [2, 3], "data_offsets": [0, 12]}}, b"0" * 12),
        ({"leaf": {"dtype": "U16", "shape": [2, 3], "data_offsets": [0, 12]}}, b"0" * 12),  # only the bytes lie
        ([], b""),
        ({}, b""),
    ],
)
def test_a_shard_that_lies(header: Any, data: bytes, saved: Path) -> None:
    replace_shard(saved, json.dumps(header).encode(), data)
    trace = open_trace(saved)
    with pytest.raises(TraceFormatError, match="where: "):
        trace.payload("leaf")


def test_a_payload_shape_that_lies(saved: Path) -> None:
    for shape in ([3, 2], [2**40, 3], [6], [2**62, 2**62, 0]):
        rows = rows_of(saved)
        find(rows, "payload")[4] = shape
        reseal(saved, rows)
        with pytest.raises(TraceFormatError, match="does not look as the index says"):
            open_trace(saved).payload("leaf")


def _exercise(root: Path) -> None:
    trace = open_trace(root)
    for key in trace.payloads:
        trace.payload(key)


@given(
    name=st.sampled_from(["manifest.json", "events.jsonl", "payloads-00000.safetensors"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=12)), min_size=1, max_size=4),
    close=st.booleans(),
    sealed=st.booleans(),
)
@settings(max_examples=250)
def test_only_designed_errors_come_out_of_damaged_bytes(
    name: str, edits: list[tuple[float, int, bytes]], close: bool, sealed: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "t"
        _small(root, close)
        data = bytearray((root / name).read_bytes())
        for where, drop, insert in edits:
            at = int(where * len(data))
            data[at : at + drop] = insert
        (root / name).write_bytes(data)
        if sealed and name == "events.jsonl":  # right checksums: the content itself must be judged
            reseal(root, raw=[line[9:] for line in bytes(data).split(b"\n") if line])
        try:
            _exercise(root)
        except WhydiffError as error:
            assert str(root) in str(error) and error.what
        shutil.rmtree(root)


tokens = st.sampled_from(
    [
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b'"',
        b"-1",
        b"0",
        b"1",
        b"99",
        b"1e9",
        b"null",
        b"true",
        b'"call"',
        b'"$float"',
        b'"$tuple"',
        b'"$dict"',
        b"NaN",
        b"1" * 30,
        b'"span"',
        b"[]",
        b"{}",
        b'""',
    ]
)


@given(st.floats(0, 1), st.integers(0, 6), st.lists(tokens, max_size=4))
@settings(max_examples=250)
def test_only_designed_errors_come_out_of_changed_json(where: float, drop: int, insert: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _small(root, True)
        raw = b"\n".join(line[9:] for line in (root / "events.jsonl").read_bytes().splitlines())
        at = int(where * len(raw))
        changed = raw[:at] + b"".join(insert) + raw[at + drop :]
        reseal(root, raw=changed.split(b"\n"))
        try:
            _exercise(root)
        except WhydiffError as error:
            assert str(root) in str(error) and error.what


def _small(root: Path, close: bool) -> None:
    site, spec = Site("a", "mm"), TensorSpec((2,), "bfloat16", "cpu", (1,))
    writer = TraceWriter(root, framework="torch", level="op")
    writer.add_leaves([Leaf(0, "input", "args[0]", spec, Fingerprint((1, 2), 4), "leaf")])
    read = Event(site.at("read.0"), spec, 0)
    write = Event(site.at("output"), spec, 1, 0, Fingerprint((3, 4), 4))
    arguments = [{"$read": 0}, 1.5, (1, 2)]
    writer.add_calls([Call(0, site, "aten.mm.default", "compute", (read,), (write,), arguments)])
    writer.add_payload("leaf", Payload(np.zeros(2, np.uint16), "bfloat16"))
    writer.end_step()
    if close:
        writer.close()
    else:
        writer._index.close()


def test_a_trace_in_a_linked_directory_opens(saved: Path, tmp_path: Path, recorded: RecordedTrace) -> None:
    (tmp_path / "link").symlink_to(saved)
    assert open_trace(tmp_path / "link").calls == recorded.calls
    save(open_trace(tmp_path / "link"), tmp_path / "copy")
