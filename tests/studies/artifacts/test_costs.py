"""Small files that ask for much: what is read of a file costs about what the file is."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whydiff import compare_artifacts
from whydiff.capturing.store import read_tensor_file
from whydiff.errors import TraceFormatError
from whydiff.studies.artifacts.foreign import child

SECONDS = 10.0
KEYS = 40_000


def packed(method: int, size: int) -> bytes:
    """An archive of one array of zeros."""
    head, file = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("w.npy", head.getvalue() + bytes(size))
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_packed_as_numpy_never_packs_is_not_unpacked(method: int, tmp_path: Path) -> None:
    """A hundred thousand times its size is possible there, and a piece of it is unpacked at once."""
    for side, size in (("a", 10), ("b", 1 << 25)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "x.npz").write_bytes(packed(method, size))
    assert (tmp_path / "b" / "x.npz").stat().st_size < (1 << 25) / 5000
    found = compare_artifacts(tmp_path / "a", tmp_path / "b")
    assert f"packed by method {method}, as numpy never does" in found.not_compared[0].reason
    with pytest.raises(TraceFormatError, match="as numpy never does"):
        read_tensor_file(tmp_path / "b" / "x.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_packed_as_numpy_packs_is_read(method: int, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(packed(method, 100))
    assert read_tensor_file(tmp_path / "x.npz")["w"].bits.shape == (100,)
    assert compare_artifacts(tmp_path / "x.npz", tmp_path / "x.npz").status == "identical"


def document(entry: str, last: str) -> bytes:
    return ("{" + "".join(f'"k{n}": {entry}, ' for n in range(KEYS)) + f'"{last}": {entry}}}').encode()


FORMS: dict[str, Callable[[str], bytes]] = {
    "x.json": lambda last: document("1", last),
    "x.safetensors": lambda last: headed(document('{"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}', last)),
}


def headed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


@pytest.mark.parametrize("name", FORMS)
def test_a_key_that_stands_twice_at_the_end_is_found_at_once(name: str, tmp_path: Path) -> None:
    for side, last in (("a", "other"), ("b", f"k{KEYS - 1}")):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_bytes(FORMS[name](last))
    begun = time.process_time()
    found = compare_artifacts(tmp_path / "a", tmp_path / "b")
    assert time.process_time() - begun < SECONDS
    assert f"an object has the key 'k{KEYS - 1}' twice" in found.not_compared[0].reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_in_a_checkpoint_s_folder_is_not_waited_for(tmp_path: Path) -> None:
    for side in ("a", "b"):
        (tmp_path / side / "checkpoint" / "d").mkdir(parents=True)
        (tmp_path / side / "checkpoint" / "_METADATA").write_text("{}")
        (tmp_path / side / "checkpoint" / "manifest.ocdbt").write_bytes(side.encode())
    os.mkfifo(tmp_path / "b" / "checkpoint" / "d" / "manifest")
    with pytest.raises(ValueError, match="'manifest' is no regular file"):
        child.carried_out("of_orbax", tmp_path / "b" / "checkpoint", tmp_path / "numbers", tmp_path / "document")


def test_a_hole_gives_no_right_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library may hold grows with the bytes that are on disk."""
    asked: list[int] = []
    monkeypatch.setattr(child, "_bound", lambda size, numbers: asked.append(size))
    (tmp_path / "x.msgpack").write_bytes(b"\x80")
    os.truncate(tmp_path / "x.msgpack", 1 << 20)
    with pytest.raises(ValueError):
        child.carried_out("of_msgpack", tmp_path / "x.msgpack", tmp_path / "numbers", tmp_path / "document")
    data: Any = os.urandom(1 << 20)
    (tmp_path / "y.msgpack").write_bytes(b"\xc6" + len(data).to_bytes(4, "big") + data)
    child.carried_out("of_msgpack", tmp_path / "y.msgpack", tmp_path / "numbers", tmp_path / "document")
    assert asked[0] <= 1 << 16 and asked[1] >= 1 << 20
    assert json.loads((tmp_path / "document").read_text())["values"]
