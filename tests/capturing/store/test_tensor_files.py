"""Plain tensor files: every dtype by its true name, every bit, and clear refusals."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from whydiff.capturing.store import read_tensor_file
from whydiff.errors import PayloadError, TraceFormatError, UsageError, WhydiffError

DTYPES = ["bool", "uint8", "int16", "int64", "float16", "float32", "float64", "complex64", "complex128"]


def safetensors_bytes(**tensors: tuple[str, list[int], bytes]) -> bytes:
    header, data = {}, b""
    for name, (tag, shape, raw) in tensors.items():
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_safetensors_names_what_numpy_cannot(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors_bytes(
            f8=("F8_E4M3", [3], b"\x01\x02\x03"),
            bf=("BF16", [2], b"\x80\x3f\x00\x40"),
            f32=("F32", [], np.float32(1.5).tobytes()),
            none=("F32", [0, 2**40], b""),
            c=("C64", [1], b"\0" * 8),
            packed=("F4", [4], b"\x12\x34"),
        )
    )
    file = read_tensor_file(path)
    assert list(file) == ["f8", "bf", "f32", "none", "c", "packed"]
    assert (file["bf"].dtype, file["bf"].bits.tolist()) == ("bfloat16", [0x3F80, 0x4000])
    assert (file["f8"].dtype, file["f8"].bits.tolist()) == ("float8_e4m3fn", [1, 2, 3])
    assert file["f32"].bits.shape == () and file["f32"].bits == 1.5  # not aligned in the file
    assert file["f32"].bits.flags.aligned
    assert file["none"].bits.shape == (0, 2**40)
    assert file["c"].dtype == "complex64"
    with pytest.raises(PayloadError, match="F4"):
        file["packed"]


@pytest.mark.parametrize(
    ("header", "size", "found"),
    [
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, 8, "declares F32"),
        ({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 8]}}, 8, "declares F32"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 12, "bytes its header declares"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 4, "bytes its header declares"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, 8, "overlap or leave a hole"),
        ({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, 4, "overlap or leave a hole"),
        ({"a": {"dtype": "F32", "shape": [1] * 40, "data_offsets": [0, 4]}}, 4, "40 dimensions"),
    ],
)
def test_safetensors_that_lie_are_refused(header: Any, size: int, found: str, tmp_path: Path) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * size)
    with pytest.raises(TraceFormatError, match=found):
        read_tensor_file(tmp_path / "x.safetensors")


def test_safetensors_of_the_library(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b.c": np.array(2.0), "e": np.zeros((0, 2))}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "b"})
    file = read_tensor_file(tmp_path / "x.safetensors")
    assert set(file) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(file[name].bits, array, strict=True)


@given(hnp.arrays(st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0)), st.booleans(), st.booleans())
@settings(max_examples=60)
def test_npy_and_npz(tmp_path_factory: pytest.TempPathFactory, array: Any, fortran: bool, big: bool) -> None:
    folder = tmp_path_factory.mktemp("x")
    array = np.array(array, array.dtype.newbyteorder(">" if big else "<"), order="F" if fortran else "C")
    np.save(folder / "x.npy", array)
    np.savez_compressed(folder / "x.npz", one=array, two=array)
    files = [read_tensor_file(folder / "x.npy")["array"]]
    npz = read_tensor_file(folder / "x.npz")
    assert list(npz) == ["one", "two"]
    for payload in (*files, npz["one"], npz["two"]):
        assert payload.dtype == array.dtype.name and payload.bits.flags.c_contiguous
        little = np.array(array, array.dtype.newbyteorder("<"), order="C")
        assert payload.bits.dtype == little.dtype and payload.bits.shape == array.shape
        assert payload.bits.tobytes() == little.tobytes()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".pkl", ".PT"])
def test_pickles_are_sent_to_the_adapter(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"x{suffix}").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(UsageError, match=r"torch adapter[^$]*weights_only=True"):
        read_tensor_file(tmp_path / f"x{suffix}")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not known"):
        read_tensor_file(tmp_path / "x.csv")
    with pytest.raises(TraceFormatError, match="no such tensor file"):
        read_tensor_file(tmp_path / "x.npy")
    (tmp_path / "d.npy").mkdir()
    with pytest.raises(TraceFormatError, match="no such tensor file"):
        read_tensor_file(tmp_path / "d.npy")


@pytest.mark.parametrize(
    "array", [np.array(["text"]), np.zeros(2, "V2"), np.zeros(2, [("a", "f4")]), np.zeros(2, "M8[s]")]
)
def test_dtypes_that_are_no_numbers_are_refused(array: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", a=array)
    for file, name in (("x.npy", "array"), ("x.npz", "a")):
        with pytest.raises(PayloadError, match="cannot be compared"):
            read_tensor_file(tmp_path / file)[name]


def member(header: str, data: bytes) -> bytes:
    text = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "raw",
    [
        member("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }", b"0" * 8),
        member("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", b"0" * 8),
        member("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n."),
        member("{'descr': __import__('os').abort(), 'fortran_order': False, 'shape': (1,), }", b""),
        member("(" * 3000, b""),
        b"",
        b"\x93NUMPY\x09\x00",
        b"cos\nsystem\n(S'true'\ntR.",
    ],
)
def test_numpy_files_that_lie_are_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", raw)
    for file, name in (("x.npy", "array"), ("x.npz", "a")):
        with pytest.raises(TraceFormatError, match="damaged, or holds pickled objects"):
            read_tensor_file(tmp_path / file)[name]


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(1))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", buffer.getvalue())
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.npy", buffer.getvalue())
    with pytest.raises(TraceFormatError, match="same name"):
        read_tensor_file(tmp_path / "x.npz")


@given(st.sampled_from([".safetensors", ".npy", ".npz"]), st.floats(0, 1), st.integers(0, 5), st.binary(max_size=8))
@settings(max_examples=200)
def test_only_designed_errors_come_out_of_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, where: float, drop: int, insert: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / f"x{suffix}"
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    if suffix == ".npy":
        np.save(path, array)
    elif suffix == ".npz":
        np.savez_compressed(path, a=array)
    else:
        save_file({"a": array}, path)
    data = path.read_bytes()
    at = int(where * len(data))
    path.write_bytes(data[:at] + insert + data[at + drop :])
    try:
        for payload in read_tensor_file(path).values():
            assert payload.bits.flags.c_contiguous
    except WhydiffError as error:
        assert str(path) in str(error)
