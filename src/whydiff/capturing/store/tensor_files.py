"""Plain tensor files as payloads: ``.safetensors``, ``.npy``, ``.npz``. Nothing is ever unpickled."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from whydiff.capturing.store.dtypes import NATIVE, TAGS
from whydiff.capturing.store.safetensors_file import SafetensorsFile
from whydiff.errors import PayloadError, TraceFormatError, UsageError
from whydiff.records import Payload

PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle"})

DAMAGE = (
    ValueError,
    OSError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    struct.error,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
)
"""What numpy's header parser (Python's own parser) and the zip reader raise on damaged bytes."""


class TensorFile(Mapping[str, Payload]):
    """Tensor names of one file → payloads, each read when it is asked for."""

    def __init__(self, path: Path, readers: Mapping[str, Callable[[], Payload]]) -> None:
        self.path, self._readers = path, readers

    def __getitem__(self, name: str) -> Payload:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def read_tensor_file(path: str | os.PathLike[str]) -> TensorFile:
    """The tensors of a file, by name (a ``.npy`` file holds one, named ``"array"``).

    Raises:
        UsageError: the suffix is not one that is read here; PyTorch files need the torch adapter.
        TraceFormatError: missing, damaged or hostile; also raised when a damaged tensor is asked for.
        PayloadError: when a tensor is asked for whose dtype cannot be read (pickled objects, text …).
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix in PICKLED:
        raise UsageError(
            "This file is a pickle, which is never opened here.",
            where=str(file),
            actual=suffix,
            expected=".safetensors, .npy or .npz",
            next_step="Open it through the torch adapter (torch.load with weights_only=True), or save it as "
            ".safetensors.",
        )
    if suffix not in (".safetensors", ".npy", ".npz"):
        raise UsageError(
            "This kind of tensor file is not known.",
            where=str(file),
            actual=suffix or "(no suffix)",
            expected=".safetensors, .npy or .npz",
            next_step="Save the tensors as .safetensors.",
        )
    if not file.is_file():
        raise TraceFormatError("There is no such tensor file.", where=str(file), expected="a regular file")
    if suffix == ".safetensors":
        return _safetensors(file)
    return _npy(file) if suffix == ".npy" else _npz(file)


def _safetensors(path: Path) -> TensorFile:
    opened = SafetensorsFile(path)

    def reader(name: str) -> Callable[[], Payload]:
        tag = opened.entries[name][0]
        return lambda: Payload(opened.array(name), TAGS[tag][0] if tag in TAGS else tag)

    return TensorFile(path, {name: reader(name) for name in opened.entries})


def _damaged(where: str, error: Exception) -> TraceFormatError:
    return TraceFormatError(
        "A tensor file is damaged, or holds pickled objects.",
        where=where,
        actual=str(error),
        next_step="Save the tensors again, as .safetensors or with numpy.save(..., allow_pickle=False).",
    )


def _payload(array: Any, where: str) -> Payload:
    name = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
    if name not in NATIVE:
        raise PayloadError(
            "A tensor has a dtype that cannot be compared.",
            where=where,
            actual=name,
            expected=", ".join(NATIVE),
            next_step="Save it as .safetensors, which names every dtype.",
        )
    bits = array if array.dtype == NATIVE[name] else array.astype(NATIVE[name])
    return Payload(bits if bits.flags.c_contiguous else np.array(bits, order="C"), name)


def _npy(path: Path) -> TensorFile:
    def reader() -> Payload:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except DAMAGE as error:
            raise _damaged(str(path), error) from error
        return _payload(np.asarray(array), str(path))

    return TensorFile(path, {"array": reader})


def _npz(path: Path) -> TensorFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [member.filename for member in plain_members(archive, path.stat().st_size)]
    except DAMAGE as error:
        raise _damaged(str(path), error) from error

    def reader(member: str) -> Callable[[], Payload]:
        where = f"{path}: {member}"

        def read() -> Payload:
            try:
                with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
                    array = _npy_member(stream, archive.getinfo(member).file_size)
            except DAMAGE as error:
                raise _damaged(where, error) from error
            return _payload(array, where)

        return read

    return TensorFile(path, {name.removesuffix(".npy"): reader(name) for name in names})


def plain_members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The members of an ``.npz`` file of so many bytes, packed as numpy packs: not at all, or deflated.

    A deflated byte becomes 1,032 at most; packed otherwise, a few thousand bytes unpack to any number.

    Raises:
        ValueError: another packing, two members of one name, or members that share bytes of the file.
    """
    members = archive.infolist()
    other = [m for m in members if m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]
    if other:
        raise ValueError(
            f"{other[0].filename[:60]!r} is packed by method {other[0].compress_type}, as numpy never does"
        )
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two members have the same name")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members overlap")
    return members


def npy_header(stream: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of a ``.npy`` stream of ``size`` bytes, which its data must fill.

    Raises:
        ValueError: another version, pickled objects, or another number of bytes (and all of `DAMAGE`).
    """
    form = np.lib.format
    version = form.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format version {version} is not read here")
    shape, fortran, dtype = (form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0)(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never opened")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(f"it declares {dtype}{list(shape)} and has {size - stream.tell()} bytes of data")
    return shape, fortran, dtype


def _npy_member(stream: Any, size: int) -> np.ndarray[Any, Any]:
    """One ``.npy`` stream; its declared bytes must equal the member's size (checked before reading)."""
    shape, fortran, dtype = npy_header(stream, size)
    return np.frombuffer(stream.read(), dtype).reshape(shape, order="F" if fortran else "C")
