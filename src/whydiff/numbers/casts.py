"""Proof that one tensor is another one rounded to a narrower dtype, on the values themselves.

Rounding to nearest, ties to even, into a binary format with p significant bits and smallest normal exponent
emin: x → rint(x / q) * q with the quantum q = 2**(max(exponent(x), emin) - p + 1). Source: IEEE 754-2019,
section 4.3.1; OFP8 rev. 1.0 for the 8-bit formats (Noune et al., arXiv:2206.02915, for ``fnuz``). float64
holds every value involved, so each step is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import HIDDEN_CAST_CHANCE, HIDDEN_CAST_SHARE, SAMPLE
from whydiff.records import Payload

Array = np.ndarray[Any, Any]
_BLOCK = 1 << 18


@dataclass(frozen=True, slots=True)
class Format:
    """A binary floating-point format.

    Attributes:
        precision: significant bits, the hidden one included.
        emin: exponent of the smallest normal number.
        largest: largest finite value.
        overflow: what a larger value becomes.
    """

    precision: int
    emin: int
    largest: float
    overflow: float = np.inf


FORMATS = {
    "float64": Format(53, -1022, float(np.finfo(np.float64).max)),
    "float32": Format(24, -126, float(np.finfo(np.float32).max)),
    "float16": Format(11, -14, 65504.0),
    "bfloat16": Format(8, -126, float.fromhex("0x1.fep+127")),
    "float8_e4m3fn": Format(4, -6, 448.0, np.nan),
    "float8_e4m3fnuz": Format(4, -7, 240.0, np.nan),
    "float8_e5m2": Format(3, -14, 57344.0),
    "float8_e5m2fnuz": Format(3, -15, 57344.0, np.nan),
}
"""From the most to the least significant bits."""
_PARTS = {"complex64": "float32", "complex128": "float64"}


@dataclass(frozen=True, slots=True)
class Cast:
    """One side's tensor is the other's, rounded.

    Attributes:
        rounded: the side that holds the rounded values.
        wide, narrow: dtype before, dtype that it was rounded to.
        stored: dtype that the rounded values are kept in now; wider than ``narrow`` if they were cast back.
        via: a dtype that the values went through on the way (float64 → float32 → bfloat16), or "".
        elements: all of them (complex: two per element).
        changed: how many changed their value.
        max_rel: largest relative change.
    """

    rounded: Literal["reference", "candidate"]
    wide: str
    narrow: str
    stored: str
    via: str
    elements: int
    changed: int
    max_rel: float


def round_to(exact: Array, dtype: str) -> Array:
    """Values rounded to nearest, ties to even, into a dtype of `FORMATS`.

    Args:
        exact: float64 values of any shape.
        dtype: the format; overflow becomes what the format does with it (infinity or NaN).

    Returns:
        float64 array of the same shape.
    """
    kind = FORMATS[dtype]
    if dtype == "float64":
        return exact
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype in ("float32", "float16"):
            narrowed: Array = exact.astype(dtype).astype(np.float64)
            return narrowed
        quantum = _quantum(exact, kind)
        rounded: Array = np.copysign(np.rint(exact / quantum) * quantum, exact)
        over = np.abs(rounded) > kind.largest
        rounded[over] = np.copysign(kind.overflow, exact[over])
        if dtype.endswith("fnuz"):
            rounded += 0.0  # these formats have no negative zero
    return rounded


def proven_cast(reference: Payload, candidate: Payload) -> Cast | None:
    """The cast that turns one side into the other, element for element; None if there is none.

    With two dtypes the narrower side must be the other's rounding. With one dtype the rounded values must
    have been cast back, which is only believed if chance cannot explain it: see
    `whydiff.numbers.tolerance.HIDDEN_CAST_SHARE` and `HIDDEN_CAST_CHANCE`.

    Args:
        reference: full tensor.
        candidate: full tensor; another shape or a dtype without rounding gives None.
    """
    if reference.bits.shape != candidate.bits.shape or not reference.bits.size:
        return None
    parts = [_PARTS.get(side.dtype, side.dtype) for side in (reference, candidate)]
    if any(part not in FORMATS for part in parts):
        return None
    ours, theirs = _line(reference), _line(candidate)
    if parts[0] != parts[1]:
        return _judged(ours, theirs, "candidate", parts[0], parts[1], parts[1]) or _judged(
            theirs, ours, "reference", parts[1], parts[0], parts[0]
        )
    narrower = [n for n, kind in FORMATS.items() if kind.precision < FORMATS[parts[0]].precision]
    for narrow in narrower:
        found = _judged(ours, theirs, "candidate", parts[0], narrow, parts[1]) or _judged(
            theirs, ours, "reference", parts[1], narrow, parts[0]
        )
        if found is not None:
            return found
    return None


def share_equal_to_rounding(reference: Payload, candidate: Payload) -> tuple[int, int] | None:
    """(how many elements equal the reference's rounding to the candidate's dtype, elements).

    None if the candidate's dtype is not a narrower float.
    """
    ours, theirs = reference.dtype, candidate.dtype
    if ours not in FORMATS or theirs not in FORMATS or reference.bits.shape != candidate.bits.shape:
        return None
    if FORMATS[theirs].precision >= FORMATS[ours].precision:
        return None
    exact, held = _line(reference), _line(candidate)
    equal = sum(
        int(np.count_nonzero(_same(round_to(_exact(exact, at), theirs), _exact(held, at))))
        for at in range(0, exact.size, _BLOCK)
    )
    return equal, exact.size


def _judged(
    source: Array, held: Array, rounded: Literal["reference", "candidate"], wide: str, narrow: str, stored: str
) -> Cast | None:
    for via in ("", "float32") if wide == "float64" and FORMATS[narrow].precision < 24 else ("",):
        measured = _measure(source, held, narrow, via)
        if measured is None:
            continue
        changed, furthest, max_rel = measured
        if stored == wide and (
            changed < HIDDEN_CAST_SHARE * source.size or changed == 0 or furthest**changed < HIDDEN_CAST_CHANCE
        ):
            continue
        return Cast(rounded, wide, narrow, stored, via, source.size, changed, max_rel)
    return None


def _measure(source: Array, held: Array, narrow: str, via: str) -> tuple[int, float, float] | None:
    """(changed, largest rounding error in half quanta, largest relative error); None: not the rounding."""
    step = max(1, source.size // SAMPLE)
    if step > 1 and _block(source[::step][:SAMPLE], held[::step][:SAMPLE], narrow, via) is None:
        return None
    changed, furthest, max_rel = 0, 0.0, 0.0
    for at in range(0, source.size, _BLOCK):
        block = _block(source[at : at + _BLOCK], held[at : at + _BLOCK], narrow, via)
        if block is None:
            return None
        changed += block[0]
        furthest, max_rel = max(furthest, block[1]), max(max_rel, block[2])
    return changed, furthest, max_rel


def _block(source: Array, held: Array, narrow: str, via: str) -> tuple[int, float, float] | None:
    exact, kept = source.astype(np.float64), held.astype(np.float64)
    rounded = round_to(round_to(exact, via) if via else exact, narrow)
    if not np.all(_same(rounded, kept)):
        return None
    moved = np.isfinite(exact) & (rounded != exact)
    if not moved.any():
        return 0, 0.0, 0.0
    start = exact[moved]
    error = np.abs(np.minimum(np.abs(rounded[moved]), 2 * FORMATS[narrow].largest) - np.abs(start))
    half = _quantum(start, FORMATS[narrow]) / 2
    return (int(moved.sum()), float(np.max(np.minimum(error / half, 1.0))), float(np.max(error / np.abs(start))))


def _same(one: Array, other: Array) -> Array:
    """Equal bits, elementwise, in float64; all NaNs are one."""
    same: Array = (one.view(np.int64) == other.view(np.int64)) | (np.isnan(one) & np.isnan(other))
    return same


def _quantum(exact: Array, kind: Format) -> Array:
    _, exponent = np.frexp(exact)  # exact = m * 2**exponent with 0.5 <= abs(m) < 1
    quantum: Array = np.ldexp(1.0, np.maximum(exponent - 1, kind.emin) - kind.precision + 1)
    return quantum


def _line(payload: Payload) -> Array:
    found = values(payload.bits, payload.dtype).reshape(-1)
    return found.view(_PARTS[payload.dtype]) if payload.dtype in _PARTS else found


def _exact(line: Array, at: int) -> Array:
    return line[at : at + _BLOCK].astype(np.float64)
