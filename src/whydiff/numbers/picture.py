"""A picture of how two tensors differ: a small grid of differences, a histogram of ULPs, the first mismatch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Payload, Picture

Array = np.ndarray[Any, Any]

CELLS = 48
"""Most rows and columns of the grid."""
MOST = 1 << 22
"""Most elements that are looked at; of a larger tensor its first rows."""


def picture(name: str, reference: Payload, candidate: Payload) -> Picture | None:
    """A picture of two tensors of one shape; None if there is nothing to show (other shapes, no real numbers, equal).

    Args:
        name: of the place.
        reference, candidate: the full tensors.
    """
    shape = reference.bits.shape
    if shape != candidate.bits.shape or not reference.bits.size:
        return None
    if not {reference.dtype, candidate.dtype} <= UNIT_ROUNDOFF.keys() or "complex" in reference.dtype + candidate.dtype:
        return None
    width = shape[-1] if len(shape) > 1 else min(CELLS, reference.bits.size)
    kept = max(1, MOST // width) * width
    ours, theirs = (_first(payload, kept) for payload in (reference, candidate))
    with np.errstate(invalid="ignore", over="ignore"):  # infinity less infinity
        apart = np.abs(theirs - ours)
    apart[np.isnan(ours) & np.isnan(theirs) | (ours == theirs)] = 0.0
    differing = np.flatnonzero(apart != 0)
    if not differing.size:
        return None
    apart = np.nan_to_num(apart, nan=np.inf)
    first = int(differing[0])
    grid, rows, columns = _grid(apart, width)
    return Picture(
        name=name,
        spec=f"{reference.dtype}[{','.join(map(str, shape))}]",
        grid=grid,
        rows=rows,
        columns=columns,
        ulps=_ulps(apart[differing], ours[differing], reference.dtype),
        first=tuple(int(i) for i in np.unravel_index(first, shape)) if shape else (),
        values=(f"{ours[first]:.9g}", f"{theirs[first]:.9g}"),
        seen=(int(ours.size), int(reference.bits.size)),
    )


def _first(payload: Payload, kept: int) -> Array:
    flat = payload.bits.reshape(-1)[:kept]
    result: Array = np.asarray(values(flat, payload.dtype), np.float64)
    return result


def _grid(apart: Array, width: int) -> tuple[tuple[tuple[float, ...], ...], int, int]:
    height = math.ceil(apart.size / width)
    rows, columns = math.ceil(height / CELLS), math.ceil(width / CELLS)
    padded = np.zeros((math.ceil(height / rows) * rows, math.ceil(width / columns) * columns))
    whole = np.zeros(height * width)
    whole[: apart.size] = apart
    padded[:height, :width] = whole.reshape(height, width)
    cells = padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns).max(axis=(1, 3))
    return tuple(tuple(map(float, row)) for row in cells), rows, columns


def _ulps(apart: Array, ours: Array, dtype: str) -> tuple[tuple[int, int], ...]:
    """Differences in units in the last place of the reference, counted by powers of two."""
    size = np.abs(ours)
    size = np.where(np.isfinite(size) & (size > 0), size, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore", divide="ignore"):
        units = apart / (2.0 ** np.floor(np.log2(size)) * 2 * UNIT_ROUNDOFF[dtype])
        powers = np.clip(np.floor(np.log2(np.maximum(units, 1.0))), 0, 63).astype(np.int64)
    counts = np.bincount(powers)
    return tuple((1 << power, int(n)) for power, n in enumerate(counts) if n)
