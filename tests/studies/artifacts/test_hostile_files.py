"""Files made to harm: nothing runs, nothing is written beside, memory and time stay bounded, the rest is compared."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from whydiff import compare_artifacts
from whydiff.capturing.adapters.torch.checkpoint import checkpoint
from whydiff.cli import app
from whydiff.errors import TraceFormatError
from whydiff.studies.artifacts import ArtifactComparison, content
from whydiff.studies.artifacts.items import shown

MEMORY = 64 << 20
"""Bytes that two small files may take."""
WORDS = np.arange(40, dtype=np.float32)


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is loaded and compiled once is not counted."""
    folder = tmp_path_factory.mktemp("first")
    for n in range(2):
        np.save(folder / f"{n}.npy", WORDS + n)
        np.savez(folder / f"{n}.npz", whole=np.arange(1 << 20).astype(np.uint8) + np.uint8(n))
        (folder / f"{n}.pt").write_bytes(_good("pt") + bytes(n))
        (folder / f"{n}.parquet").write_bytes(_good("parquet") + bytes(n))
    for suffix in ("npy", "npz", "pt", "parquet"):
        compare_artifacts(folder / f"0.{suffix}", folder / f"1.{suffix}")


@pytest.fixture(autouse=True)
def nothing_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Temporary files are deleted, and nothing else appears."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    yield
    assert not list(place.iterdir())


def compared(folder: Path, name: str, ours: bytes, theirs: bytes) -> ArtifactComparison:
    for side, data in (("a", ours), ("b", theirs)):
        (folder / side).mkdir(exist_ok=True)
        (folder / side / name).write_bytes(data)
        np.save(folder / side / "good.npy", np.arange(3))
    tracemalloc.start()
    try:
        found = compare_artifacts(folder / "a", folder / "b")
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
    assert {path.name for path in folder.iterdir()} <= {"a", "b", "temporary", "it ran"}
    assert found.identical >= (0 if name == "good.npy" else 1)
    return found


def refused(folder: Path, name: str, make: Callable[[int], bytes]) -> str:
    found = compared(folder, name, make(0), make(1))
    (file,) = found.files
    assert (file.path, file.items[0].status) == (name, "not compared")
    return found.not_compared[0].reason


# --------------------------------------------------------------------------- what unpacks or unfolds to too much


def archive(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as made:
        for name, data in members.items():
            made.writestr(name, data)
    return file.getvalue()


def npy(shape: tuple[int, ...], data: bytes, descr: Any = "|u1") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def test_an_archive_that_unpacks_to_a_thousand_times_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 1 << 20
    bomb = [archive({"x.npy": npy((size,), bytes(size - 1) + bytes([n]))}) for n in range(2)]
    assert len(bomb[0]) < size / 500
    assert compared(tmp_path, "x.npz", *bomb).files[0].items[0].equal_share == 1 - 1 / size
    monkeypatch.setattr(content, "_free", lambda path: size)
    assert "half of the free space" in refused(tmp_path, "x.npz", lambda n: bomb[n])


def test_an_archive_whose_members_overlap(tmp_path: Path) -> None:
    def make(n: int) -> bytes:
        data = npy((5000,), bytes([n]) * 5000)
        raw = bytearray(archive({f"{i}.npy": data for i in range(2)}, zipfile.ZIP_STORED))
        end = raw.rindex(b"PK\x05\x06")
        directory = int.from_bytes(raw[end + 16 : end + 20], "little")
        second = raw.index(b"PK\x01\x02", directory + 4)
        kept = int.from_bytes(raw[raw.index(b"PK\x03\x04", 4) :][18:22], "little")
        assert kept == len(data)
        raw[second + 42 : second + 46] = raw[directory + 42 : directory + 46]  # both begin at the first
        cut = raw.index(b"PK\x03\x04", 4)
        del raw[cut:directory]
        end = raw.rindex(b"PK\x05\x06")
        raw[end + 16 : end + 20] = cut.to_bytes(4, "little")
        return bytes(raw)

    assert "overlap" in refused(tmp_path, "x.npz", make)


def test_pickled_objects_in_an_archive(tmp_path: Path) -> None:
    def make(n: int) -> bytes:
        file = io.BytesIO()
        np.savez(file, x=np.array([{"n": n}], object), allow_pickle=True)
        return file.getvalue()

    assert "never opened" in refused(tmp_path, "x.npz", make)


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_checkpoint(tmp_path: Path, old: bool) -> None:
    mark = tmp_path / "it ran"
    attacks = [
        Calls(os.mkdir, str(mark)),
        Calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
        Calls(torch.load, str(mark)),
        Calls(__import__, "antigravity"),
    ]
    for attack in attacks:
        reason = refused(tmp_path, "x.pt", lambda n, a=attack: pickle.dumps([n, a], 2) if old else saved([n, a]))
        assert "not opened" in reason and not mark.exists()


@pytest.mark.parametrize("old", [False, True])
def test_a_byte_array_of_any_length_is_not_made(tmp_path: Path, old: bool) -> None:
    def make(n: int, size: int = 1 << 40) -> bytes:
        file = io.BytesIO()
        torch.save([n, Calls(bytearray, size)], file, _use_new_zipfile_serialization=not old)
        return file.getvalue()

    assert len(torch.load(io.BytesIO(make(0, 5)), weights_only=True)[1]) == 5  # torch does call it
    assert "bytearray" in refused(tmp_path, "x.pt", make)


def test_a_checkpoint_that_is_packed(tmp_path: Path) -> None:
    def make(n: int) -> bytes:
        with zipfile.ZipFile(io.BytesIO(saved({"x": "a" * 1000, "n": n}))) as made:
            return archive({name: made.read(name) for name in made.namelist()})

    assert "packed" in refused(tmp_path, "x.pt", make)


def test_a_checkpoint_that_names_one_list_many_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whydiff.capturing.store.nested.MAX_NODES", 10_000)

    def make(n: int) -> bytes:
        value: Any = [n]
        for _ in range(60):
            value = [value] * 10
        return saved(value)

    assert "unfolds to more" in refused(tmp_path, "x.pt", make)


def test_a_long_key_above_many_entries(tmp_path: Path) -> None:
    reason = refused(
        tmp_path, "x.json", lambda n: json.dumps({"k" * 10**6: {f"{i}": "v" for i in range(n, 9)}}).encode()
    )
    assert "a name is longer than" in reason


def test_a_table_that_repeats_one_long_text(tmp_path: Path) -> None:
    def make(n: int) -> bytes:
        file = io.BytesIO()
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["x" * 10**5 + str(n)]))
        parquet.write_table(pa.table({"t": texts}), file, store_schema=False)
        return file.getvalue()

    before = pa.total_allocated_bytes()
    data = [make(0), make(1)]
    assert len(data[0]) < 1 << 20  # 10 GB of text
    found = compared(tmp_path, "x.parquet", *data)
    assert found.files[0].items[0].reason == "100000 of 100000 texts differ, the first in row 0"
    assert pa.total_allocated_bytes() - before < MEMORY


# --------------------------------------------------------------------------- names


def test_names_that_no_terminal_should_get(tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
        document = {"\ud800" + side: "\udfff", "../../x": side, "\x1b[2J": side, "[red]": side, "\u202egnp": side}
        (tmp_path / side / "x.json").write_text(json.dumps(document))
        name = os.fsencode(tmp_path / side) + b"/n\xff\x1b[2J"
        with open(name, "wb") as file:
            file.write(side.encode())
    for options in ([], ["-v"], ["--json"], ["-s", str(tmp_path / "r.json"), "-s", str(tmp_path / "r.txt")]):
        result = CliRunner().invoke(app, ["artifacts", str(tmp_path / "a"), str(tmp_path / "b"), *options])
        assert result.exit_code == 1, result.output
        assert "\x1b" not in result.stdout
        assert options == ["--json"] or "\u202e" not in result.stdout
    assert json.loads((tmp_path / "r.json").read_text())["status"] == "differs"


def test_members_with_paths_are_only_names(tmp_path: Path) -> None:
    names = ["../../out.npy", "/etc/passwd.npy", "a\\..\\b.npy"]
    make = [archive({name: npy((4,), bytes([n] * 4)) for name in names}) for n in range(2)]
    found = compared(tmp_path, "x.npz", *make)
    assert {item.name for item in found.files[0].items} == {name.removesuffix(".npy") for name in names}


def test_long_numbers_are_shown_by_their_length() -> None:
    assert shown(10**30) == "1" + "0" * 30
    assert shown(1 << 20_000) == "an integer of 20001 bits"  # Python would refuse to print it


# --------------------------------------------------------------------------- at random


def _good(kind: str) -> bytes:
    file = io.BytesIO()
    match kind:
        case "npy":
            np.save(file, WORDS)
        case "npz":
            np.savez(file, x=WORDS, n=np.arange(3))
        case "packed.npz":
            np.savez_compressed(file, x=WORDS, n=np.arange(3))
        case "pt":
            torch.save({"x": torch.from_numpy(WORDS), "deep": [{"n": 3}, "text"]}, file)
        case "old.pt":
            torch.save({"x": torch.from_numpy(WORDS), "n": 3}, file, _use_new_zipfile_serialization=False)
        case "safetensors":
            header = {"x": {"dtype": "F32", "shape": [40], "data_offsets": [0, 160]}, "__metadata__": {"a": "b"}}
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + WORDS.tobytes()
        case "parquet":
            table = {"x": WORDS, "t": pa.array(["a", None] * 20), "v": pa.array([[1, 2]] * 40)}
            parquet.write_table(pa.table(table), file)
        case "csv":
            return b"a,b,c\n1,0.5,x\n2,1.5,\n"
        case "json":
            return json.dumps({"a": [1, 2], "b": {"c": [0.5, None, "x"]}}).encode()
    return file.getvalue()


GOOD = {
    kind: _good(kind) for kind in ("npy", "npz", "packed.npz", "pt", "old.pt", "safetensors", "parquet", "csv", "json")
}


@settings(max_examples=100)
@given(
    kind=st.sampled_from(sorted(GOOD)),
    edits=st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.integers(0, 3),
            st.binary(max_size=4) | st.sampled_from([b"\xff" * 8, b"\0" * 8, b"99999999999", b"-1", b"[[", b"/../"]),
        ),
        min_size=1,
        max_size=4,
    ),
    keep=st.floats(0, 1) | st.just(1.0),
)
def test_damage_at_random(tmp_path: Path, kind: str, edits: list[tuple[float, int, bytes]], keep: float) -> None:
    data = bytearray(GOOD[kind])
    for where, drop, insert in edits:
        at = int(where * len(data))
        data[at : at + drop] = insert
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compared(tmp_path, f"x.{kind.split('.')[-1]}", GOOD[kind], bytes(data[: int(keep * len(data))]))
    for path in (tmp_path / "a", tmp_path / "b"):
        for file in path.iterdir():
            file.unlink()
    assert found.status in ("identical", "within tolerance", "differs")


@settings(max_examples=100)
@given(
    key=st.sampled_from(["dtype", "shape", "data_offsets"]),
    value=st.one_of(
        st.sampled_from(["F64", "BF16", "OBJ", "", "../x", None, True, {}, [], [[40]], [2**62, 4], [-40], [0, 2**62]]),
        st.lists(st.integers(-1, 2**64), max_size=4),
    ),
)
def test_a_safetensors_header_that_lies(tmp_path: Path, key: str, value: Any) -> None:
    entry = {"dtype": "F32", "shape": [40], "data_offsets": [0, 160], key: value}
    text = json.dumps({"x": entry}).encode()
    lie = struct.pack("<Q", len(text)) + text + WORDS.tobytes()
    found = compared(tmp_path, "x.safetensors", GOOD["safetensors"], lie)
    assert found.status in ("identical", "differs")


def test_what_is_damaged_above_is_good_before(tmp_path: Path) -> None:
    for kind, data in GOOD.items():
        name = f"x.{kind.split('.')[-1]}"
        assert compared(tmp_path, name, data, data).status == "identical"
        assert not compared(tmp_path, name, data, data).not_compared, kind


def test_an_old_pytorch_file_that_ends_inside_a_length_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"x": torch.ones(2), "name": "text"}, buffer, _use_new_zipfile_serialization=False)
    whole = buffer.getvalue()
    ends = range(whole.index(b"X"), whole.index(b"X") + 120)  # X: four bytes of length, then text
    for end in ends:
        (tmp_path / "x.pt").write_bytes(whole[:end])
        with pytest.raises(TraceFormatError, match="damaged, or holds more"):
            checkpoint(tmp_path / "x.pt")


# --------------------------------------------------------------------------- found by people who tried


def test_a_bad_archive_does_not_lose_the_report_of_a_tree(tmp_path: Path) -> None:
    """106 bytes that look like the end of an archive."""
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 1, 1, 2**31, 40, 0)
    for side in ("one", "two"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "bad.pt").write_bytes(side.encode() * 28 + end)
        (tmp_path / side / "good.json").write_text(f'{{"n": "{side}"}}')
    found = compare_artifacts(tmp_path / "one", tmp_path / "two")
    statuses = {file.path: file.status for file in found.files}
    assert statuses["good.json"] == "differs" and statuses["bad.pt"] in ("differs", "not compared")


@pytest.mark.parametrize("named", [lambda x: [x, x], lambda x: {"a": x, "b": x}, lambda x: (x, [x], {"k": x})])
def test_a_file_that_names_itself_again_and_again_is_refused_at_once(
    tmp_path: Path, named: Callable[[Any], Any]
) -> None:
    value: Any = ["x"]
    for _ in range(60):
        value = named(value)
    for n, side in enumerate(("one", "two")):
        (tmp_path / side).mkdir()
        torch.save({"n": n, "x": value}, tmp_path / side / "x.pt")
    found = compare_artifacts(tmp_path / "one", tmp_path / "two")
    assert found.files[0].items[0].status == "not compared"
    assert "unfolds to more than" in found.not_compared[0].reason


def test_a_line_may_hold_a_line_separator(tmp_path: Path) -> None:
    for n, side in enumerate(("one", "two")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.jsonl").write_text(
            f'{{"t": "a\u2028b\u0085c", "n": {n}}}\r\n{{"n": 2}}\n', encoding="utf-8"
        )
    (file,) = compare_artifacts(tmp_path / "one", tmp_path / "two").files
    assert [item.name for item in file.items] == ["[0].n"]


def test_bytes_that_carry_no_value_are_told(tmp_path: Path) -> None:
    """No number and no text differs, and yet the files do: that is said."""
    for n, side in enumerate(("one", "two")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.json").write_text('{"a": 1, "b": 2}' if n else '{"b":2,   "a":1}')
    found = compare_artifacts(tmp_path / "one", tmp_path / "two")
    assert found.status == "identical"
    (count,) = found.not_compared
    assert count.what == "bytes that hold no number and no value" and count.examples == ("x.json",)


@pytest.mark.slow
def test_the_order_of_a_directory_and_of_a_set_changes_nothing(tmp_path: Path) -> None:
    """The same trees, written in another order and read under another hash seed, give the same JSON, byte for byte."""
    words = [f"word{n}" for n in range(20)]
    texts = []
    for seed, order in (("0", words), ("1", words[::-1])):
        roots = [tmp_path / seed / side for side in ("one", "two")]
        for n, root in enumerate(roots):
            (root / "deep").mkdir(parents=True)
            for word in order:
                (root / "deep" / f"{word}.json").write_text(f'{{"n": {n}}}')
                (root / f"{word}.txt").symlink_to("nowhere")
                (root / f"{word}.bad.npy").write_bytes(bytes([n]))
            torch.save({"set": set(order), "n": n}, root / "x.pt")
        code = (
            "import sys, json; from whydiff import compare_artifacts;"
            "found = compare_artifacts('one', 'two').to_dict(); print(json.dumps(found))"
        )
        variables = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path / seed, env=variables, capture_output=True, text=True, check=True
        )
        texts.append(done.stdout)
    assert texts[0] == texts[1]
