"""Formats of other tools: files that the owning libraries wrote, changed ones, and what is not followed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.scores import foreign_files as made
from tests.scores.commands import done

from whydiff import compare_artifacts
from whydiff.errors import TraceFormatError, UsageError
from whydiff.studies.artifacts import ArtifactComparison
from whydiff.studies.artifacts.content import Content, forget_spooled
from whydiff.studies.artifacts.foreign.reading import read_foreign
from whydiff.studies.artifacts.readers import reader_for

Array = np.ndarray[Any, Any]
CHANGED = {
    "a.gguf": {"plain", "half", "packed"},
    "b.onnx": {"w"},
    "external.onnx": {"w"},
    "c.h5": {"m/w", "m/packed", "big"},
    "d.msgpack": {"params.w"},
    "e.faiss": {"vectors"},
    "orbax": {"w", "opt[1].m"},
}


def trees(folder: Path, name: str, delta: float) -> ArtifactComparison:
    for side, size in (("a", 0.0), ("b", delta)):
        (folder / side).mkdir()
        made.WRITERS[name](folder / side / name, size)
    return compare_artifacts(folder / "a", folder / "b")


HELD = {
    "a.gguf": ("plain",),
    "b.onnx": ("w",),
    "external.onnx": ("w",),
    "c.h5": ("m/packed", "big"),
    "d.msgpack": ("params.w",),
    "orbax": ("w",),
}
"""Tensors that are `foreign_files.numbers`."""


@pytest.mark.parametrize("name", made.WRITERS)
def test_two_saves_are_equal_and_one_changed_number_is_found_in_what_was_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: dict[str, Array] = {}

    def reading(path: Path) -> Content:
        """As the product reads it, and the first side's numbers are kept."""
        content = read_foreign(path)
        assert not content.skipped
        for key, stored in content.tensors.items() if path.parent.name == "a" else ():
            if stored.dtype in ("float32", "int64", "float16") and not stored.packed:
                held[key] = np.array(stored.source.line(0, stored.numbers)).view(stored.dtype).reshape(stored.shape)
        return content

    monkeypatch.setattr("whydiff.studies.artifacts.study.reader_for", lambda path: reader_for(path) and reading)
    for delta in (0.0, 0.5):
        (tmp_path / str(delta)).mkdir()
        found = trees(tmp_path / str(delta), name, delta)
        files = {file.path: file for file in found.files if file.items and not file.path.endswith(".data")}
        if not delta:
            assert not files and not any("byte by byte" in file.note for file in found.files)
            continue
        assert {item.name for item in files[name].items if item.status == "differs"} == CHANGED[name]
        assert not any(file.note.startswith("compared byte by byte") for file in files.values())
    for key in HELD.get(name, ()):
        assert np.array_equal(held[key], made.numbers())
    assert name != "e.faiss" or held["vectors"].shape == (300, 16)


@pytest.mark.parametrize("kind", made.FAISS)
def test_every_kind_of_faiss_index_is_looked_into(kind: str, tmp_path: Path) -> None:
    made.faiss(tmp_path / "x.faiss", kind=kind)
    try:
        content = read_foreign(tmp_path / "x.faiss")
        assert content.tensors and not content.skipped
    finally:
        forget_spooled()


def test_a_quantised_tensor_is_a_relation_of_the_plain_one(tmp_path: Path) -> None:
    made.gguf(tmp_path / "a.gguf")
    np.savez(tmp_path / "b.npz", packed=made.numbers(), plain=made.numbers(), half=made.numbers().T)
    (file,) = compare_artifacts(tmp_path / "a.gguf", tmp_path / "b.npz").files
    told = {item.name: item.relation and item.relation.kind for item in file.items}
    assert told["packed"] == "quantised" and "plain" not in told


def test_small_numbers_that_are_lost_differ_in_every_format(tmp_path: Path) -> None:
    from flax import serialization

    moments = np.random.default_rng(0).random((8, 8)).astype(np.float32) * np.float32(1e-8)
    for side, factor in (("a", 1), ("b", 0)):
        (tmp_path / f"{side}.msgpack").write_bytes(serialization.msgpack_serialize({"nu": moments * factor}))
    found = compare_artifacts(tmp_path / "a.msgpack", tmp_path / "b.msgpack")
    assert found.status == "differs"


def test_a_missing_library_is_named_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.gguf(tmp_path / "a.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs gguf"):
        read_foreign(tmp_path / "a.gguf")


@pytest.mark.parametrize("location", ["../x.data", "/etc/hostname", "none.data"])
def test_an_onnx_file_names_no_other_file(location: str, tmp_path: Path) -> None:
    import onnx

    made.onnx(tmp_path / "external.onnx")
    (tmp_path / "deep").mkdir()
    (tmp_path / "x.data").write_bytes(bytes(1 << 16))
    model = onnx.load(str(tmp_path / "external.onnx"), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    (tmp_path / "deep" / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(TraceFormatError, match="no file beside it"):
        read_foreign(tmp_path / "deep" / "x.onnx")
    forget_spooled()


def test_hdf5_follows_no_link_and_fills_nothing_that_is_only_declared(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["link"], file["soft"] = h5py.ExternalLink("/etc/hostname", "x"), h5py.SoftLink("/w")
        file["w"] = made.numbers()
        file.create_dataset("huge", (1 << 20, 1 << 20), "f4", chunks=(1 << 10, 1 << 10))
        file["loop"] = file["/"]
    try:
        content = read_foreign(tmp_path / "x.h5")
    finally:
        forget_spooled()
    assert set(content.tensors) == {"w"} and set(content.skipped) == {"link", "soft", "huge", "loop"}


@pytest.mark.slow
def test_changed_bytes_give_content_or_a_clear_error() -> None:
    """A sample; ``--count 2000`` changes many."""
    told = done("tests.scores.foreign", "--count", "16")
    assert told.returncode == 0 and "WRONG" not in told.stdout, told.stdout + told.stderr
    for name in made.FORMATS:
        (line,) = (line for line in told.stdout.splitlines() if line.startswith(f"{name}: "))
        assert "'refused'" in line or "'died'" in line
    assert told.stdout.count("'read'") > len(made.FORMATS) // 2  # few of a text's changes leave it readable
