"""Whether a tensor that differs is the other one after a transpose, a permutation, a factor …: asked before 'differs' is said.

Ordered passes, the simplest first. Each proves its relation on every number: bit for bit where numbers only move,
to rounding where they are computed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.numbers.casts import proven_cast
from whydiff.numbers.metrics import values
from whydiff.numbers.rearrangement import candidates
from whydiff.numbers.tolerance import ARTIFACT_MOVED, ARTIFACT_QUANTISED, ARTIFACT_UNITS, UNIT_ROUNDOFF
from whydiff.records import Payload
from whydiff.studies.artifacts.records import Relation
from whydiff.studies.artifacts.sources import InMemory, Stored

MOST = 1 << 24
"""Numbers of a tensor that is looked into for a relation."""
MOST_COMPUTED = 1 << 23
"""Numbers of a tensor for which a factor is sought: it takes five copies in float64."""
MOST_REARRANGED = 1 << 20
SAMPLE = 1 << 16
Array = np.ndarray[Any, Any]


def relation(reference: Stored, candidate: Stored, apart: float | None = None) -> Relation | None:
    """How the candidate follows from the reference; None: no relation that is known here, or too large to look.

    Args:
        reference, candidate: tensors that differ.
        apart: their relative L2 error if they have one shape; numbers that are near each other did not move.
    """
    if max(reference.numbers, candidate.numbers) > MOST or reference.digests or candidate.digests:
        return None
    if reference.numbers != candidate.numbers or reference.numbers < 2:
        return None
    x, y = bits(reference), bits(candidate)
    if reference.dtype == candidate.dtype and not (apart is not None and apart < ARTIFACT_MOVED):
        found = next((one for test in _MOVES if (one := test(x, y)) is not None), None)
        if found is not None:
            return found
    complex_ = "complex64" in (reference.dtype, candidate.dtype) or "complex128" in (reference.dtype, candidate.dtype)
    if reference.shape != candidate.shape or complex_ or x.size > MOST_COMPUTED:
        return None
    if not reference.packed and not candidate.packed and reference.is_integer == candidate.is_integer:
        if reference.dtype != candidate.dtype:
            return _cast(x, y, reference, candidate)
        if reference.is_integer or not _promising(x, y, reference.dtype):
            return None
    a, b = (values(held, side.dtype).astype(np.float64) for held, side in ((x, reference), (y, candidate)))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    if reference.packed or candidate.packed or reference.is_integer != candidate.is_integer:
        return _quantised(a, b, reference, candidate)
    return _computed(a, b, UNIT_ROUNDOFF.get(reference.dtype, 0.0))


def _promising(x: Array, y: Array, dtype: str) -> bool:
    """Whether the first rows are related, where there are many."""
    if x.size <= SAMPLE or x.ndim < 2:
        return True
    rows = max(1, SAMPLE * len(x) // x.size)
    a, b = (values(side[:rows], dtype).astype(np.float64).reshape(rows, -1) for side in (x, y))
    unit = UNIT_ROUNDOFF.get(dtype, 0.0)
    factors = (a * b).sum(1, keepdims=True) / np.maximum((a * a).sum(1, keepdims=True), np.finfo(np.float64).tiny)
    return bool(np.isfinite(factors).all() and _fits(factors * a, b, unit * math.sqrt(a.shape[1])))


def bits(stored: Stored) -> Array:
    """The numbers' bits in the tensor's shape, in C order (a copy); complex numbers as pairs."""
    line = np.array(stored.source.line(0, stored.numbers))
    stored.source.release()
    pair = (2,) if stored.dtype.startswith("complex") else ()
    if stored.order == "C":
        return line.reshape(*stored.shape, *pair)
    turned = line.reshape(*stored.shape[::-1], *pair)
    axes = tuple(range(len(stored.shape)))[::-1]
    return np.ascontiguousarray(turned.transpose(*axes, *(len(axes) for _ in pair)))


def in_c_order(stored: Stored) -> Stored:
    """The same tensor in C order; what is too large to hold stays as it is."""
    if stored.order == "C" or stored.numbers > MOST:
        return stored
    return replace(stored, source=InMemory(bits(stored).reshape(-1)), order="C")


# --------------------------------------------------------------------------- numbers that only moved


def _reshaped(x: Array, y: Array) -> Relation | None:
    if x.shape == y.shape or not np.array_equal(x.reshape(-1), y.reshape(-1)):
        return None
    return Relation(kind="reshaped", detail=f"{list(x.shape)} → {list(y.shape)}")


def _transposed(x: Array, y: Array) -> Relation | None:
    if not 2 <= x.ndim <= 4:
        return None
    for axes in itertools.permutations(range(x.ndim)):
        moved = x.transpose(axes)
        if axes != tuple(range(x.ndim)) and moved.shape == y.shape and np.array_equal(moved, y):
            return Relation(kind="transposed", detail=" ".join(map(str, axes)))
    return None


def _permuted(x: Array, y: Array) -> Relation | None:
    if x.shape != y.shape:
        return None
    for axis in range(min(x.ndim, 2)):
        order = _order(np.moveaxis(x, axis, 0), np.moveaxis(y, axis, 0))
        if order is not None:
            block = _block(order)
            kind: Any = "permuted heads" if block > 1 else "permuted"
            return Relation(kind=kind, axis=axis, detail=f"blocks of {block}" if block > 1 else "", moved=len(order))
    return None


def _order(x: Array, y: Array) -> Array | None:
    """Which row of x each row of y is, if they are the same rows in another order."""
    if len(x) < 2:
        return None
    keys = [_keys(side) for side in (x, y)]
    if len(np.unique(keys[0])) < len(x):  # rows that are equal to each other have no order to find
        return None
    ours, theirs = (np.argsort(key, kind="stable") for key in keys)
    if not np.array_equal(keys[0][ours], keys[1][theirs]):
        return None
    order = np.empty(len(x), np.int64)
    order[theirs] = ours
    return order if np.array_equal(x[order], y) else None


def _keys(x: Array) -> Array:
    """A 64-bit number for each row."""
    flat = np.ascontiguousarray(x).reshape(len(x), -1)
    words = flat.view(f"u{flat.dtype.itemsize}").astype(np.uint64)
    random = np.random.default_rng(0).integers(1, 2**63, flat.shape[1], np.uint64)
    return np.asarray((words + np.uint64(1)) @ random)


def _block(order: Array) -> int:
    """The longest run of rows that every move keeps together; 1: rows move alone."""
    size = len(order)
    for block in sorted((d for d in range(2, size) if size % d == 0), reverse=True):
        parts = order.reshape(-1, block)
        if (np.diff(parts, axis=1) == 1).all() and (parts[:, 0] % block == 0).all():
            return block
    return 1


def _rearranged(x: Array, y: Array) -> Relation | None:
    """One axis in factors that changed places: interleaved heads, rotary pairs."""
    if not 2 <= x.size <= MOST_REARRANGED or x.ndim > 4:
        return None
    flat, wanted = x.reshape(-1), y.reshape(-1)
    if not np.array_equal(np.sort(flat), np.sort(wanted)):
        return None
    sample = np.linspace(0, x.size - 1, min(x.size, 256)).astype(np.int64)
    for one in candidates(x.shape, y.shape):
        if np.array_equal(flat[one.at(sample)], wanted[sample]) and np.array_equal(flat[one.indices()], wanted):
            return Relation(kind="rearranged", detail=str(one))
    return None


_MOVES: tuple[Callable[[Array, Array], Relation | None], ...] = (_reshaped, _transposed, _permuted, _rearranged)


# --------------------------------------------------------------------------- numbers that were computed


def _computed(a: Array, b: Array, unit: float) -> Relation | None:
    return next((one for test in (_negated, _scaled, _normalised) if (one := test(a, b, unit)) is not None), None)


def _negated(a: Array, b: Array, unit: float) -> Relation | None:
    return Relation(kind="negated") if np.array_equal(-a, b) and b.any() else None


def _scaled(a: Array, b: Array, unit: float) -> Relation | None:
    """One factor, or one for each row."""
    square = float((a * a).sum())
    factor = float((a * b).sum()) / square if square else 0.0
    if factor and _fits(factor * a, b, unit):
        return None if abs(factor - 1) < ARTIFACT_UNITS * unit else Relation(kind="scaled", factor=_round(factor))
    return None


def _normalised(a: Array, b: Array, unit: float) -> Relation | None:
    """Each row, or each column, has the length 1 on one side and the same direction."""
    for axis in (
        (1, 0) if a.ndim == 2 and min(a.shape) > 1 else ()
    ):  # a single number has a length of its own, and no direction
        for side, raw, unit_rows in (("candidate", a, b), ("reference", b, a)):
            lengths = [np.sqrt((part * part).sum(axis, keepdims=True)) for part in (raw, unit_rows)]
            if not all(length.all() for length in lengths) or np.ptp(lengths[0]) <= ARTIFACT_UNITS * unit:
                continue
            ones = np.abs(lengths[1] - 1).max() <= ARTIFACT_UNITS * unit * math.sqrt(a.shape[axis])
            if ones and _fits(raw / lengths[0], unit_rows, unit * math.sqrt(a.shape[axis])):
                return Relation(kind="normalised", axis=1 - axis, detail=f"the {side}'s have length 1")
    return None


def _fits(wanted: Array, found: Array, unit: float) -> bool:
    near = np.abs(wanted - found) <= ARTIFACT_UNITS * unit * np.abs(found) + np.finfo(np.float32).tiny
    return bool(near.all())


def _round(factor: float) -> float:
    """A factor without the noise of its fit."""
    return float(f"{factor:.6g}")


def _cast(x: Array, y: Array, reference: Stored, candidate: Stored) -> Relation | None:
    if np.array_equal(values(x, reference.dtype), values(y, candidate.dtype)):
        return Relation(kind="cast", detail=f"{reference.dtype} and {candidate.dtype} hold the same values")
    found = proven_cast(Payload(x, reference.dtype), Payload(y, candidate.dtype))
    return None if found is None else Relation(kind="cast", detail=f"the {found.rounded} is rounded to {found.narrow}")


def _quantised(a: Array, b: Array, reference: Stored, candidate: Stored) -> Relation | None:
    """Whole numbers times a scale (of the tensor, of each row or column), or a packed file's blocks."""
    if reference.packed or candidate.packed:
        packed = [side.packed for side in (reference, candidate) if side.packed]
        block = np.abs(a).reshape(-1)[: a.size // 32 * 32].reshape(-1, 32).max(1, keepdims=True)
        apart = np.abs(a - b).reshape(-1)[: a.size // 32 * 32].reshape(-1, 32)
        steps = 2.0 ** (_bits(packed[0]) - 1) - 1
        fits = bool(apart.size and (apart <= block / max(steps, 1.0)).all())
        return Relation(kind="quantised", detail=" and ".join(packed)) if fits else None
    for axis in _axes(a):
        whole, real = (a, b) if reference.is_integer else (b, a)
        scale = _scales(whole, real, axis)
        if scale is not None:
            one = scale.size == 1
            what = "one scale" if one else f"{scale.size} scales"
            return Relation(kind="quantised", factor=_round(float(scale.reshape(-1)[0])) if one else None, detail=what)
    return None


def _scales(whole: Array, real: Array, axis: tuple[int, ...]) -> Array | None:
    """A scale for each part, times which every whole number is within half a scale of its real one; None: there is none.

    Whole numbers of less than three kinds, or fewer than `ARTIFACT_QUANTISED` in a part, have such a scale by chance.
    """
    numbers = math.prod(whole.shape[n] for n in axis)
    if numbers < ARTIFACT_QUANTISED or np.ptp(whole, axis=axis).max() < 2:
        return None
    size, real = np.abs(whole), real * np.where(whole < 0, -1.0, 1.0)
    reach = np.where(whole == 0, np.abs(real), real)
    room = 1 + ARTIFACT_UNITS * UNIT_ROUNDOFF["bfloat16"]
    least = (reach / (size + 0.5)).max(axis, keepdims=True) / room
    most = np.where(size > 0, reach / np.maximum(size - 0.5, 0.5), np.inf).min(axis, keepdims=True) * room
    held = size.max(axis, keepdims=True) > 0
    fits = np.where(held, (most > 0) & (least <= most), least <= 0)
    if not fits.all() or not held.any():
        return None
    square = (size * size).sum(axis, keepdims=True)
    found: Array = np.clip((size * real).sum(axis, keepdims=True) / np.where(square, square, 1), least, most)
    return np.where(held, found, 0.0)


def _axes(a: Array) -> Iterator[tuple[int, ...]]:
    yield tuple(range(a.ndim))
    if a.ndim > 1:
        yield tuple(range(1, a.ndim))
        yield tuple(range(a.ndim - 1))


def _bits(packed: str) -> int:
    """Bits of one number: the digit in GGUF's names of types."""
    digits = [int(letter) for letter in packed if letter.isdigit()]
    return digits[0] if digits else 8
