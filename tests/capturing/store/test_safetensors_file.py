"""Safetensors files: every dtype's bits, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.errors import TraceFormatError, WhydiffError


def safetensors_bytes(**tensors: tuple[str, list[int], bytes]) -> bytes:
    header, data = {}, b""
    for name, (tag, shape, raw) in tensors.items():
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_bits_are_read_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        safetensors_bytes(
            f8=("F8_E4M3", [3], b"\x01\x02\x03"),
            f32=("F32", [], np.float32(1.5).tobytes()),
            none=("F32", [0, 2**40], b""),
            packed=("F4", [4], b"\x12\x34"),
        )
    )
    file = SafetensorsFile(path)
    assert list(file.entries) == ["f8", "f32", "none", "packed"]
    assert file.array("f8", np.dtype("u1"), (3,)).tolist() == [1, 2, 3]
    number = file.array("f32", np.dtype("<f4"), ())
    assert number.shape == () and number == 1.5 and number.flags.aligned  # not aligned in the file
    assert file.array("none", np.dtype("<f4"), (0, 2**40)).shape == (0, 2**40)
    assert bytes(file.slice("packed")) == b"\x12\x34"
    with pytest.raises(TraceFormatError, match="shape is impossible"):
        file.array("f8", np.dtype("u1"), (2,))


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
        SafetensorsFile(tmp_path / "x.safetensors")


def test_safetensors_of_the_library(tmp_path: Path) -> None:
    tensors = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b.c": np.array(2.0), "e": np.zeros((0, 2))}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"a": "b"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(file.entries) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(file.array(name, array.dtype, array.shape), array, strict=True)


@given(st.floats(0, 1), st.integers(0, 5), st.binary(max_size=8))
@settings(max_examples=100)
def test_only_designed_errors_come_out_of_damaged_files(
    tmp_path_factory: pytest.TempPathFactory, where: float, drop: int, insert: bytes
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.int32).reshape(2, 3)}, path)
    data = path.read_bytes()
    at = int(where * len(data))
    path.write_bytes(data[:at] + insert + data[at + drop :])
    try:
        file = SafetensorsFile(path)
        assert all(file.slice(name) is not None for name in file.entries)
    except WhydiffError as error:
        assert str(path) in str(error)
