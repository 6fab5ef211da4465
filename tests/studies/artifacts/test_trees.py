"""Trees of files: statuses, the statistics, ranking, hostile files, URLs."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from typer.testing import CliRunner

from whydiff import compare_artifacts
from whydiff.cli import app
from whydiff.numbers.tolerance import ARTIFACT_TOLERANCES
from whydiff.studies.artifacts import ArtifactComparison, Item
from whydiff.studies.artifacts.sources import InMemory, Stored

Trees = tuple[Path, Path]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    pair = tmp_path / "reference", tmp_path / "candidate"
    for tree in pair:
        (tree / "deep").mkdir(parents=True)
    return pair


def only(found: ArtifactComparison) -> Item:
    (file,) = found.files
    (item,) = file.items
    return item


def by_path(found: ArtifactComparison) -> dict[str, str]:
    return {file.path: file.status for file in found.files}


def write_each(trees: Trees, write: Callable[[Path, int], None]) -> None:
    for number, tree in enumerate(trees):
        write(tree, number)


# --------------------------------------------------------------------------- statuses and statistics


def test_equal_trees_are_identical_whatever_the_format(trees: Trees) -> None:
    floats = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 20)

    def write(tree: Path, _: int) -> None:
        save_file({"w": floats, "h": floats.astype(np.float16)}, tree / "a.safetensors")
        np.save(tree / "b.npy", floats[::2])
        np.savez(tree / "c.npz", x=floats, n=np.arange(4))
        np.savez_compressed(tree / "deep" / "d.npz", x=floats)
        torch.save({"w": torch.from_numpy(floats).bfloat16(), "ids": torch.arange(4), "step": 3}, tree / "e.pt")
        (tree / "f.json").write_text(json.dumps({"a": [1, 2], "b": [0.5, 1.0], "c": "x", "d": [], "e": None}))
        (tree / "g.bin").write_bytes(bytes(range(256)))
        (tree / "empty.txt").write_bytes(b"")

    write_each(trees, write)
    found = compare_artifacts(*trees)
    assert (found.status, found.files, found.identical) == ("identical", (), 8)
    assert found.bytes_read == 2 * sum(p.stat().st_size for p in trees[0].rglob("*") if p.is_file())


@pytest.mark.parametrize(
    ("dtype", "inside", "outside"),
    [("float32", 9e-7, 3e-6), ("float16", 9e-5, 2e-3), ("float64", 9e-5, 2e-3), ("bfloat16", 9e-4, 5e-2)],
)
def test_floats_are_judged_by_the_tolerance_of_their_dtype(
    trees: Trees, dtype: str, inside: float, outside: float
) -> None:
    rtol, atol = ARTIFACT_TOLERANCES.get(dtype, ARTIFACT_TOLERANCES[""])
    for delta, status in ((inside, "within tolerance"), (outside, "differs")):
        values = torch.zeros(8, dtype=getattr(torch, dtype))
        values[-1] = 1  # numbers of size 1, for which the table's absolute tolerance is meant
        moved = torch.where(values == 0, delta, values).to(values.dtype)
        write_each(trees, lambda tree, n, both=(values, moved): torch.save(both[n], tree / "x.pt"))  # type: ignore[misc]
        item = only(compare_artifacts(*trees))
        assert (item.status, item.kind, item.rtol, item.atol) == (status, "float", rtol, atol)
        assert item.allclose is (status == "within tolerance")
        assert item.equal_share == 1 / 8


def test_small_numbers_that_are_lost_differ(trees: Trees) -> None:
    moments = np.random.default_rng(0).random((64, 64), np.float32) * np.float32(1e-8)
    write_each(trees, lambda tree, n: np.save(tree / "exp_avg_sq.npy", moments * (1 - n)))
    item = only(compare_artifacts(*trees))
    assert item.status == "differs" and item.atol < 1e-11
    write_each(trees, lambda tree, n: np.save(tree / "exp_avg_sq.npy", moments * np.float32(1 + 1e-6 * n)))
    assert compare_artifacts(*trees).status == "within tolerance"


def test_what_nobody_can_read_is_no_agreement_unless_its_bytes_agree(trees: Trees) -> None:
    write_each(trees, lambda tree, n: np.save(tree / "names.npy", np.array(["a", "b" if n else "c"])))
    found = compare_artifacts(*trees)
    assert found.status == "differs" and only(found).status == "not compared"
    write_each(trees, lambda tree, n: np.save(tree / "names.npy", np.array(["a", "b"])))
    assert compare_artifacts(*trees).status == "identical"


def test_keys_that_make_the_same_name_are_all_compared(trees: Trees) -> None:
    def clash(first: float, second: float) -> dict[object, object]:
        return {
            0: torch.tensor([first]),
            "0": torch.tensor([1.0]),
            "a.b": torch.tensor([second]),
            "a": {"b": torch.ones(1)},
        }

    for changed in ((2.0, 1.0), (1.0, 2.0)):
        write_each(trees, lambda tree, n, c=changed: torch.save(clash(*(c if n else (1.0, 1.0))), tree / "x.pt"))  # type: ignore[misc]
        assert compare_artifacts(*trees).status == "differs"


@settings(max_examples=40)
@given(data=st.data())
def test_statistics_are_those_of_torch(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=2, max_side=6))
    numbers = st.floats(-2, 2, width=32) | st.just(0.0) | st.just(-0.0)
    ours = data.draw(hnp.arrays(np.float32, shape, elements=numbers))
    theirs = np.where(
        data.draw(hnp.arrays(bool, shape)), ours, data.draw(hnp.arrays(np.float32, shape, elements=numbers))
    )
    for name, array in (("a.npy", ours), ("b.npy", theirs)):
        np.save(tmp_path / name, array)
    found = compare_artifacts(tmp_path / "a.npy", tmp_path / "b.npy")
    if not found.files:
        assert ours.tobytes() == theirs.tobytes()
        return
    item = only(found)
    a, b = torch.from_numpy(ours), torch.from_numpy(theirs)
    wide = (a.double() - b.double()).abs()
    assert item.equal_share == pytest.approx((a == b).double().mean().item())
    assert item.mean_abs == pytest.approx(wide.mean().item())
    assert item.max_abs == pytest.approx(wide.max().item())
    # torch.allclose takes its second argument as the reference, in the dtype's own arithmetic.
    near = torch.allclose(b.double(), a.double(), rtol=item.rtol, atol=item.atol)
    assert item.allclose is near


def test_one_changed_integer_is_a_difference_and_is_ranked_before_floats(trees: Trees) -> None:
    def write(tree: Path, n: int) -> None:
        torch.save(torch.tensor([5, 6, 7 + n], dtype=torch.int32), tree / "codes.pt")
        np.save(tree / "a_floats.npy", np.ones(9, np.float32) + n)
        np.save(tree / "near.npy", np.ones(9, np.float32) + np.float32(n * 1e-6))
        np.save(tree / "shape.npy", np.ones(9 + n, np.int64))

    write_each(trees, write)
    found = compare_artifacts(*trees)
    assert [file.path for file in found.files] == ["shape.npy", "codes.pt", "a_floats.npy", "near.npy"]
    assert [file.status for file in found.files] == ["differs"] * 3 + ["within tolerance"]
    assert found.files[0].items[0].reason == "the shapes differ"
    codes = found.files[1].items[0]
    assert (codes.kind, codes.elements, codes.max_abs, codes.rtol) == ("integer", 3, 1.0, 0.0)


def test_missing_extra_and_lone_items_are_counted(trees: Trees) -> None:
    (trees[0] / "gone.txt").write_text("x")
    (trees[1] / "new.txt").write_text("x")
    write_each(trees, lambda tree, n: np.savez(tree / "x.npz", **{"both": np.ones(2), f"side{n}": np.ones(2)}))  # type: ignore[arg-type]
    found = compare_artifacts(*trees)
    assert (found.status, found.missing, found.extra) == ("differs", ("gone.txt",), ("new.txt",))
    assert {i.name: i.reason for i in found.files[0].items} == {
        "side0": "only the reference has it",
        "side1": "only the candidate has it",
    }


def test_json_is_compared_by_value(trees: Trees) -> None:
    def write(tree: Path, n: int) -> None:
        text = {"lens": [1, 2, 3 + n], "loss": 1.0 + n * 1e-5, "name": "ab"[n], "nested": {"x": [{"y": 1}]}, "ok": True}
        (tree / "meta.json").write_text(json.dumps(text))

    write_each(trees, write)
    items = {item.name: item for item in compare_artifacts(*trees).files[0].items}
    assert items["lens"].kind == "integer" and items["lens"].status == "differs"
    assert items["loss"].status == "within tolerance"
    assert (items["name"].reference, items["name"].candidate) == ("a", "b")
    assert set(items) == {"lens", "loss", "name"}


def test_another_dtype_differs_even_if_the_values_agree(trees: Trees) -> None:
    write_each(trees, lambda tree, n: np.save(tree / "x.npy", np.ones(4, (np.float32, np.float64)[n])))
    item = only(compare_artifacts(*trees))
    assert item.status == "differs" and "dtypes differ" in item.reason


def test_nan_on_one_side_is_never_within_tolerance(trees: Trees) -> None:
    write_each(trees, lambda tree, n: np.save(tree / "x.npy", np.array([1.0, (0.0, np.nan)[n]], np.float32)))
    item = only(compare_artifacts(*trees))
    assert (item.status, item.allclose) == ("differs", False)
    assert "1 NaN on one side only" in item.reason


def test_tolerances_can_be_asked_for(trees: Trees) -> None:
    write_each(trees, lambda tree, n: np.save(tree / "x.npy", np.ones(4, np.float32) + n))
    found = compare_artifacts(*trees, tolerances={"float32": (0.0, 2.0)})
    assert found.status == "within tolerance" and only(found).tolerance == "as asked for"
    result = CliRunner().invoke(app, ["artifacts", *map(str, trees), "--tolerance", "float32=2,0"])
    assert result.exit_code == 0 and "within tolerance" in result.stdout
    assert CliRunner().invoke(app, ["artifacts", *map(str, trees), "--tolerance", "float32=x"]).exit_code == 2


# --------------------------------------------------------------------------- hostile files


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return os.mkdir, (os.environ["WHYDIFF_TEST_MARK"],)


def _npy(header: dict[str, object], data: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[arg-type]
    return file.getvalue() + data


def _safetensors(header: dict[str, object], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "huge.npy": _npy({"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}, b"\0" * 16),
    "negative.npy": _npy({"descr": "<f4", "fortran_order": False, "shape": (-4,)}, b"\0" * 16),
    "objects.npy": _npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, pickle.dumps(1)),
    "cut.npy": _npy({"descr": "<f4", "fortran_order": False, "shape": (8,)}, b"\0" * 20),
    "huge.safetensors": _safetensors({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, b""),
    "cut.safetensors": _safetensors({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 9),
    "long.safetensors": struct.pack("<Q", 1 << 60),
    "deep.json": b"[" * 100_000 + b"]" * 100_000,
    "bad.json": b"{'a': 1",
    "text.npz": b"PK\x03\x04 no archive",
    "text.pt": b"no pickle at all",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_and_hostile_files_are_refused_and_the_rest_is_compared(trees: Trees, name: str) -> None:
    data = HOSTILE[name]
    write_each(trees, lambda tree, n: (tree / name).write_bytes(data + bytes([n])) and None)
    write_each(trees, lambda tree, n: np.save(tree / "good.npy", np.arange(3) + n))
    found = compare_artifacts(*trees)
    assert by_path(found) == {name: "differs", "good.npy": "differs"}
    bad = next(file for file in found.files if file.path == name)
    assert bad.items[0].status == "not compared" and bad.items[0].reason
    assert [count.examples for count in found.not_compared] == [(name,)]


def test_nothing_is_unpickled(trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "it ran"
    monkeypatch.setenv("WHYDIFF_TEST_MARK", str(mark))
    write_each(trees, lambda tree, n: torch.save({"n": n, "x": _Runs()}, tree / "model.pt"))
    write_each(trees, lambda tree, n: (tree / "old.pt").write_bytes(pickle.dumps({"n": n, "x": _Runs()})) and None)
    write_each(trees, lambda tree, n: (tree / "some.pkl").write_bytes(pickle.dumps({"n": n, "x": _Runs()})) and None)
    found = compare_artifacts(*trees)
    assert not mark.exists()
    assert by_path(found) == {"model.pt": "differs", "old.pt": "differs", "some.pkl": "differs"}
    refused = {file.path for file in found.files if file.items[0].status == "not compared"}
    assert refused == {"model.pt", "old.pt"}  # .pkl is compared byte by byte
    torch.load(trees[0] / "model.pt", weights_only=False)  # the test above can fail: this one does run it
    assert mark.exists()


def test_an_expanded_tensor_does_not_cost_what_it_declares(trees: Trees) -> None:
    write_each(trees, lambda tree, n: torch.save({"x": torch.ones(1).expand(1 << 40), "n": n}, tree / "x.pt"))
    found = compare_artifacts(*trees)
    assert "expanded view" in found.not_compared[0].reason


@settings(max_examples=60)
@given(
    cut=st.integers(0, 400),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
    kind=st.sampled_from(["npz", "pt", "safetensors", "npy"]),
)
def test_no_damage_escapes_as_another_error(tmp_path: Path, cut: int, at: int, byte: int, kind: str) -> None:
    good, bad = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    array = np.arange(12, dtype=np.float32)
    if kind == "npz":
        np.savez(good, x=array)
    elif kind == "pt":
        torch.save({"x": torch.from_numpy(array)}, good)
    elif kind == "npy":
        np.save(good, array)
    else:
        save_file({"x": array}, good)
    data = bytearray(good.read_bytes())
    data[at % len(data)] = byte
    bad.write_bytes(bytes(data[: max(1, len(data) - cut % 100)]))
    found = compare_artifacts(good, bad)
    assert found.status in ("identical", "within tolerance", "differs")


def test_a_link_to_a_folder_is_counted_and_not_followed(trees: Trees) -> None:
    write_each(trees, lambda tree, n: (tree / "up").symlink_to(tree.parent))
    found = compare_artifacts(*trees)
    assert found.status == "not compared"
    assert {count.reason for count in found.not_compared} == {
        "reference: a link to a folder is not followed",
        "candidate: a link to a folder is not followed",
    }


# --------------------------------------------------------------------------- the command, memory, URLs


def test_the_command_separates_integers_from_floats_and_exits_with_one(trees: Trees, tmp_path: Path) -> None:
    write_each(trees, lambda tree, n: np.save(tree / "ids.npy", np.arange(4) * (n + 1)))
    write_each(trees, lambda tree, n: np.save(tree / "emb.npy", np.arange(4.0) * (n + 1)))
    result = CliRunner().invoke(app, ["artifacts", *map(str, trees), "-v", "-s", str(tmp_path / "r.json")])
    assert result.exit_code == 1, result.output
    integers, floats = result.stdout.index("Integers, values and bytes (1)"), result.stdout.index("Floats (1)")
    assert integers < result.stdout.index("ids.npy", integers) < floats < result.stdout.index("emb.npy", floats)
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["schema_version"] == 1 and data["status"] == "differs"
    assert CliRunner().invoke(app, ["artifacts", str(trees[0]), str(trees[0])]).exit_code == 0
    assert CliRunner().invoke(app, ["artifacts", str(trees[0]), str(tmp_path / "none")]).exit_code == 2


def test_a_file_is_read_in_small_pieces(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    from whydiff.studies.artifacts import items, relations, sources

    sizes: list[int] = []
    line = sources.FileRange.line

    def watched(self: sources.FileRange, start: int, stop: int) -> np.ndarray:  # type: ignore[type-arg]
        sizes.append(stop - start)
        return line(self, start, stop)

    monkeypatch.setattr(sources.FileRange, "line", watched)
    monkeypatch.setattr(items, "SHARE_BYTES", 400)
    monkeypatch.setattr(relations, "MOST", 500)  # what is larger is not held to look for a relation
    write_each(trees, lambda tree, n: np.save(tree / "x.npy", np.arange(1000, dtype=np.float32) + (n if n else 0)))
    item = only(compare_artifacts(*trees))
    assert (item.elements, item.max_abs) == (1000, 1.0)
    assert sum(sizes) == 2000 and max(sizes) == 100


def test_the_torch_tensors_pages_are_dropped_only_if_they_are_the_files_own() -> None:
    line = np.arange(1 << 16, dtype=np.float32)
    InMemory(line).release()
    assert line[-1] == (1 << 16) - 1  # memory of this process is never dropped
    assert Stored("x", "complex64", (2, 3), InMemory(line)).numbers == 12


def test_trees_at_urls(trees: Trees) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    write_each(trees, lambda tree, n: np.save(tree / "deep" / "x.npy", np.arange(3) + n))
    write_each(trees, lambda tree, n: memory.put(str(tree), f"/artifacts/{n}", recursive=True))
    found = compare_artifacts("memory://artifacts/0", f"file://{trees[1]}")
    assert by_path(found) == {"deep/x.npy": "differs"}
    assert compare_artifacts("memory://artifacts/1", trees[1]).status == "identical"
    memory.rm("/artifacts", recursive=True)


def test_an_archive_member_longer_than_it_says_is_refused(trees: Trees) -> None:
    def write(tree: Path, n: int) -> None:
        with zipfile.ZipFile(tree / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x.npy", _npy({"descr": "<f4", "fortran_order": False, "shape": (1 << 30,)}, bytes([n])))

    write_each(trees, write)
    found = compare_artifacts(*trees)
    assert "declares" in found.not_compared[0].reason


def test_what_a_file_needs_to_be_looked_into_stands_in_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("a", "b"):
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1" + name.encode() * 40 + b"PAR1")
    found = compare_artifacts(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert "pip install 'whydiff[tables]'" in dict(found.answer())["also"]
