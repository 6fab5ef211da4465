"""What the dtype names of `whydiff.records.Payload` mean: exact values, sign bits, common dtypes.

numpy knows neither bfloat16 nor the 8-bit floats; they arrive as unsigned integers of the same width and are
decoded here, exactly, to float32.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from whydiff.errors import UsageError
from whydiff.numbers.formats import FORMATS, MINIFLOATS, minifloat_table
from whydiff.records import Payload

Array = np.ndarray[Any, Any]


_PARTS = {"complex64": "float32", "complex128": "float64"}
_IDS = ("int32", "int64", "uint32", "uint64")
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "bfloat16", "float32", "float64", *MINIFLOATS)


def real_part_dtype(dtype: str) -> str:
    """The dtype of the real numbers inside: ``"float32"`` for ``"complex64"``, itself for a real dtype."""
    return _PARTS.get(dtype, dtype)


def is_choice(dtype: str) -> bool:
    """True for the integer dtypes that hold ids (tokens, indices), whose distance means nothing."""
    return dtype in _IDS


def is_integer(dtype: str) -> bool:
    """True for bool and every integer dtype."""
    return dtype in _INTEGERS


def flat(bits: Array, dtype: str) -> Array:
    """The payload's bits as one axis of real numbers (complex as pairs), read-only; copied only if they lie apart.

    Raises:
        UsageError: a dtype that whydiff does not know, or bits of another width.
    """
    part = real_part_dtype(dtype)
    if part not in _INTEGERS and part not in _FLOATS:
        raise UsageError("This dtype cannot be compared.", actual=dtype, expected=", ".join(known_dtypes()))
    line = np.ascontiguousarray(bits).reshape(-1)  # kernels read memory; a column is one axis with gaps
    if part != dtype:
        line = line.view(part)
    stored = bits_dtype(part)
    if line.dtype != stored:
        raise UsageError(
            "A payload's bits do not fit its dtype.", where=dtype, actual=str(line.dtype), expected=str(stored)
        )
    line = line.view(np.ndarray)
    line.flags.writeable = False
    return line


@functools.cache
def bits_dtype(dtype: str) -> np.dtype[Any]:
    """What numpy keeps a payload's bits in."""
    return np.dtype({"bfloat16": "uint16", **dict.fromkeys(MINIFLOATS, "uint8")}.get(dtype, dtype))


@functools.cache
def known_dtypes() -> tuple[str, ...]:
    """Every dtype name that can be compared."""
    return (*_FLOATS, *_INTEGERS, *_PARTS)


def values(bits: Array, dtype: str) -> Array:
    """Exact values of a payload's bits, as an array of the same shape that numpy can compute with.

    bfloat16 and 8-bit floats become float32 (a copy); every other dtype is returned as it is.
    """
    if dtype == "bfloat16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(bits.shape)
    if dtype in MINIFLOATS:
        return minifloat_table(dtype)[bits]
    return bits


def as_reals(payload: Payload) -> Payload:
    """A payload of complex numbers as pairs of reals along a last axis of two; any other as it is."""
    part = real_part_dtype(payload.dtype)
    if part == payload.dtype:
        return payload
    bits = np.ascontiguousarray(payload.bits)
    return Payload(bits.reshape(*bits.shape, 1).view(part), part)


@functools.cache
def common_dtype(reference: str, candidate: str) -> str | None:
    """The narrowest dtype that holds every value of both exactly; None if there is none.

    For example float16 and bfloat16 give float32, int32 and float32 give float64, int64 and float32 give
    None.
    """
    if reference == candidate:
        return reference
    if (reference in _PARTS) != (candidate in _PARTS):
        return None
    wide = [_widened(real_part_dtype(d)) for d in (reference, candidate)]
    floats = [d for d in wide if d.kind == "f"]
    if floats and any(d.kind != "f" and d.itemsize > 4 for d in wide):
        return None
    common = np.promote_types(*wide)
    if not floats and common.kind == "f":  # int64 and uint64: numpy would round them to float64
        return None
    names = {part: whole for whole, part in _PARTS.items()}
    return names[common.name] if reference in _PARTS else common.name


def _widened(dtype: str) -> np.dtype[Any]:
    return np.dtype("float32" if dtype == "bfloat16" or dtype in MINIFLOATS else dtype)


@functools.cache
def sign_bit(dtype: str) -> int:
    """The mask of the sign in a float's bits; 0 where larger bits always mean a larger value."""
    return 0 if is_integer(dtype) else FORMATS[dtype].sign
