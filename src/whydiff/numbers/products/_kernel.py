"""Sampled sums of products compiled with numba; imported by `whydiff.numbers.products` where there is much to add.

Each operand's terms are laid side by side, a band at a time, so that an output reads two short lines of the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from whydiff.numbers.kernels.compiled import compiled, f64, i64, nb

_LINES = nb.types.Array(f64, 2, "A", readonly=True, aligned=False)
_AT = nb.types.Array(i64, 1, "A", readonly=True)


@compiled(nb.void(_LINES, i64, i64, nb.types.Array(f64, 2, "C")))
def _laid(lines: Any, first: Any, terms: Any, band: Any) -> None:
    """``band[line, j] = lines[line, first + j]``, in the order of memory."""
    if abs(lines.strides[0]) < abs(lines.strides[1]):
        for j in range(terms):
            for line in range(lines.shape[0]):
                band[line, j] = lines[line, first + j]
    else:
        for line in range(lines.shape[0]):
            for j in range(terms):
                band[line, j] = lines[line, first + j]


@compiled(nb.void(_LINES, _LINES, _AT, _AT, i64, nb.types.Array(f64, 2, "C")))
def banded(left: Any, right: Any, rows: Any, columns: Any, width: Any, sums: Any) -> None:
    """Adds to ``sums`` ``[3, outputs]`` each output's terms, their magnitudes and squares: one by one in bands, then the bands.

    ``left`` and ``right`` are ``[lines, terms]``; an output multiplies two lines.
    """
    count = left.shape[1]
    width = max(1, min(width, count))
    ours, theirs = np.empty((left.shape[0], width)), np.empty((right.shape[0], width))
    for first in range(0, count, width):
        terms = min(width, count - first)
        _laid(left, first, terms, ours)
        _laid(right, first, terms, theirs)
        for i in range(rows.size):
            row, column = rows[i], columns[i]
            total = ours[row, 0] * theirs[column, 0]
            size, square = abs(total), total * total
            for j in range(1, terms):
                term = ours[row, j] * theirs[column, j]
                total += term
                size += abs(term)
                square += term * term
            sums[0, i] += total
            sums[1, i] += size
            sums[2, i] += square
