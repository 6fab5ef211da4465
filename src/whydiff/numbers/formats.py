"""Rounding of exact (float64) values to fewer bits, as inputs and outputs of an op meet it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """A binary format.

    Attributes:
        bits: significant bits, the hidden one included.
        emin: exponent of the smallest normal number.
        largest: largest finite value; larger ones become infinite.
    """

    bits: int
    emin: int
    largest: float


FORMATS = {
    "float64": Format(53, -1022, float(np.finfo(np.float64).max)),
    "float32": Format(24, -126, float(np.finfo(np.float32).max)),
    "tf32": Format(11, -126, (2 - 2.0**-10) * 2.0**127),
    "float16": Format(11, -14, 65504.0),
    "bfloat16": Format(8, -126, (2 - 2.0**-7) * 2.0**127),
}
"""IEEE 754-2019, table 3.5; NVIDIA A100 white paper (TF32: the exponent of float32, 10 stored bits)."""


def rounded(exact: Array, name: str, *, truncate: bool = False) -> Array:
    """Values rounded into a format: to nearest, ties to even, or towards zero.

    Args:
        exact: float64 values of any shape.
        name: a key of `FORMATS`.
        truncate: towards zero (the low bits are dropped).

    Returns:
        float64 array of the same shape. IEEE 754-2019, section 4.3.
    """
    kind = FORMATS[name]
    with np.errstate(invalid="ignore", over="ignore"):
        _, exponent = np.frexp(exact)
        quantum = np.ldexp(1.0, np.maximum(exponent - 1, kind.emin) - kind.bits + 1)
        units = exact / quantum
        result = (np.trunc(units) if truncate else np.rint(units)) * quantum
        if truncate:
            return np.asarray(np.clip(result, -kind.largest, kind.largest))
        return np.asarray(np.where(np.abs(result) > kind.largest, np.copysign(math.inf, result), result))


def smallest_step(name: str) -> float:
    """An absolute error that underflow alone may cause: the smallest normal number (kernels may flush)."""
    return math.ldexp(1.0, FORMATS[name].emin)
