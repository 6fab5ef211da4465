"""Dtype names on disk, and the numpy dtype that carries their bits.

A dtype that numpy names is stored as itself; every other one (bfloat16, float8 …) as the unsigned integer
of its width, with its true name in the index. All bytes are little-endian.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from whydiff.errors import CaptureError
from whydiff.records import Payload

NATIVE: dict[str, np.dtype[Any]] = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
        "complex64",
        "complex128",
    )
}
UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}
"""Width in bytes → the integer that carries the bits."""

TAGS: dict[str, tuple[str, str]] = {
    "BOOL": ("bool", "bool"),
    "U8": ("uint8", "uint8"),
    "U16": ("uint16", "uint16"),
    "U32": ("uint32", "uint32"),
    "U64": ("uint64", "uint64"),
    "I8": ("int8", "int8"),
    "I16": ("int16", "int16"),
    "I32": ("int32", "int32"),
    "I64": ("int64", "int64"),
    "F16": ("float16", "float16"),
    "F32": ("float32", "float32"),
    "F64": ("float64", "float64"),
    "C64": ("complex64", "complex64"),
    "BF16": ("bfloat16", "uint16"),
    "F8_E4M3": ("float8_e4m3fn", "uint8"),
    "F8_E5M2": ("float8_e5m2", "uint8"),
    "F8_E8M0": ("float8_e8m0fnu", "uint8"),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", "uint8"),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", "uint8"),
}
"""safetensors tag → (true dtype name, numpy dtype that carries the bits)."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ONE_BYTE = ("float8", "float4", "float6", "int4", "uint4", "int2", "uint2")


def carries(dtype: str, stored: str) -> bool:
    """True if bits of the true dtype may be stored as the numpy dtype ``stored``."""
    if stored not in NATIVE or not _NAME.fullmatch(dtype):
        return False
    if dtype in NATIVE:
        return dtype == stored
    if dtype == "bfloat16":
        return stored == "uint16"
    if dtype.startswith(_ONE_BYTE):
        return stored == "uint8"
    return stored in UNSIGNED.values()


def stored_array(key: str, payload: Payload, *, copy: bool = True) -> tuple[np.ndarray[Any, Any], str]:
    """A C-contiguous little-endian copy of a payload's bits, and the numpy name of its dtype.

    A copy, because the caller may hand in a view of memory that it changes before the shard is written; without
    ``copy`` only where the bits are laid out otherwise.

    Raises:
        CaptureError: the bits' numpy dtype does not belong to the payload's dtype.
    """
    bits = payload.bits
    stored = bits.dtype.name
    if not carries(payload.dtype, stored):
        raise CaptureError(
            "A payload's bits do not have its dtype.",
            where=key,
            actual=f"{stored} bits for {payload.dtype}",
            expected="the dtype itself where numpy has it, else the unsigned integer of the same width",
        )
    if not copy:
        return np.asarray(bits, dtype=NATIVE[stored], order="C"), stored
    return np.array(bits, dtype=NATIVE[stored], order="C", copy=True, subok=False), stored


def as_saved(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What goes into a shard: complex arrays as pairs of floats in a last axis of 2, others unchanged."""
    if array.dtype.kind != "c":
        return array
    return array.reshape(-1).view(NATIVE[f"float{array.dtype.itemsize * 4}"]).reshape(*array.shape, 2)


def saved_shape(stored: str, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The numpy dtype name and shape under which a payload lies in its shard (see `as_saved`)."""
    if stored in ("complex64", "complex128"):
        return ("float32" if stored == "complex64" else "float64"), (*shape, 2)
    return stored, shape
