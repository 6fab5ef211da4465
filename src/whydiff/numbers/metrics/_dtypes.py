"""What the dtype names of `whydiff.records.Payload` mean: exact values, sign bits, common dtypes.

numpy knows neither bfloat16 nor the 8-bit floats; they arrive as unsigned integers of the same width and are
decoded here, exactly, to float32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.errors import UsageError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Minifloat:
    """An 8-bit float: value = (-1)**s * 2**(e - bias) * 1.m, subnormal for e = 0.

    Attributes:
        exponent: bits of the exponent.
        mantissa: bits of the mantissa.
        bias: of the exponent.
        specials: ``"ieee"`` (top exponent: inf, NaN), ``"fn"`` (only all ones is NaN), ``"fnuz"`` (only the
            bits of -0 are NaN) or ``"e8m0"`` (no sign, no zero, all ones is NaN).
    """

    exponent: int
    mantissa: int
    bias: int
    specials: str


MINIFLOATS = {
    "float8_e4m3fn": Minifloat(4, 3, 7, "fn"),
    "float8_e5m2": Minifloat(5, 2, 15, "ieee"),
    "float8_e4m3fnuz": Minifloat(4, 3, 8, "fnuz"),
    "float8_e5m2fnuz": Minifloat(5, 2, 16, "fnuz"),
    "float8_e8m0fnu": Minifloat(8, 0, 127, "e8m0"),
}
"""Open Compute Project "OFP8" rev. 1.0 (fn, e5m2) and "MX" v1.0 (e8m0); Noune et al., arXiv:2206.02915
(fnuz)."""

_PARTS = {"complex64": "float32", "complex128": "float64"}
_INTEGERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_FLOATS = ("float16", "bfloat16", "float32", "float64", *MINIFLOATS)


@functools.cache
def minifloat_table(dtype: str) -> Array:
    """Value of each of the 256 codes of an 8-bit float: float32, shape ``(256,)``, read-only."""
    kind = MINIFLOATS[dtype]
    codes = np.arange(256)
    if kind.specials == "e8m0":
        table = np.ldexp(np.float64(1), codes - kind.bias)
        table[255] = np.nan
    else:
        e = (codes >> kind.mantissa) & ((1 << kind.exponent) - 1)
        m = (codes & ((1 << kind.mantissa) - 1)) / (1 << kind.mantissa)
        table = np.where(e == 0, np.ldexp(m, 1 - kind.bias), np.ldexp(1 + m, e - kind.bias))
        top = e == (1 << kind.exponent) - 1
        if kind.specials == "ieee":
            table[top] = np.where(m[top] == 0, np.inf, np.nan)
        elif kind.specials == "fn":
            table[(codes & 0x7F) == 0x7F] = np.nan
        table = np.where(codes & 0x80, -table, table)
        if kind.specials == "fnuz":
            table[0x80] = np.nan
    result = table.astype(np.float32)
    result.flags.writeable = False
    return result


def real_part_dtype(dtype: str) -> str:
    """The dtype of the real numbers inside: ``"float32"`` for ``"complex64"``, itself for a real dtype."""
    return _PARTS.get(dtype, dtype)


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
    stored = {"bfloat16": "uint16", **dict.fromkeys(MINIFLOATS, "uint8")}.get(part, part)
    if line.dtype != np.dtype(stored):
        raise UsageError("A payload's bits do not fit its dtype.", where=dtype, actual=str(line.dtype), expected=stored)
    line = line.view(np.ndarray)
    line.flags.writeable = False
    return line


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


def sign_bit(dtype: str) -> int:
    """The mask of the sign in a float's bits; 0 where larger bits always mean a larger value."""
    if is_integer(dtype) or dtype == "float8_e8m0fnu":
        return 0
    return 1 << (8 * (1 if dtype in MINIFLOATS else 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize) - 1)
