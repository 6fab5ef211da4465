"""Proof that one tensor is another one rounded to a narrower dtype, on the values themselves.

float64 holds every value involved, so each step is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whydiff.numbers.formats import FORMATS, round_to
from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import HIDDEN_CAST_CHANCE, HIDDEN_CAST_SHARE, SAMPLE
from whydiff.records import Payload

Array = np.ndarray[Any, Any]
_BLOCK = 1 << 18


_KINDS = {name: kind for name, kind in FORMATS.items() if name not in ("tf32", "float8_e8m0fnu")}
"""What tensors are rounded to, from the most to the least significant bits."""
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
    if any(part not in _KINDS for part in parts):
        return None
    ours, theirs = _line(reference), _line(candidate)
    if parts[0] != parts[1]:
        return _judged(ours, theirs, "candidate", parts[0], parts[1], parts[1]) or _judged(
            theirs, ours, "reference", parts[1], parts[0], parts[0]
        )
    narrower = [n for n, kind in _KINDS.items() if kind.precision < _KINDS[parts[0]].precision]
    for narrow in narrower:
        found = _judged(ours, theirs, "candidate", parts[0], narrow, parts[1]) or _judged(
            theirs, ours, "reference", parts[1], narrow, parts[0]
        )
        if found is not None:
            return found
    return None


def rounded(payload: Payload, dtype: str) -> Payload:
    """A payload with every value rounded to a narrower floating dtype, in the dtype that it has; itself for others."""
    if not {payload.dtype, dtype} <= _KINDS.keys() or _KINDS[dtype].precision >= _KINDS[payload.dtype].precision:
        return payload
    exact = values(payload.bits, payload.dtype).astype(np.float64)
    return Payload(round_to(exact, dtype).astype(payload.bits.dtype), payload.dtype)


def farther_than_rounding(wide: Payload, narrow: Payload) -> bool:
    """Whether some element lies a whole place of the narrower dtype or more away: no way of rounding takes it so far.

    Args:
        wide, narrow: of one shape and of floating dtypes; an element that is finite in only one of them counts.
    """
    if not {wide.dtype, narrow.dtype} <= _KINDS.keys():
        return False
    exact, held = _line(wide), _line(narrow)
    return any(_far(_exact(exact, at), _exact(held, at), narrow.dtype) for at in range(0, exact.size, _BLOCK))


def _far(exact: Array, held: Array, narrow: str) -> bool:
    finite = np.isfinite(exact)
    inside = finite & (np.abs(exact) <= FORMATS[narrow].largest)
    if np.any(np.isfinite(held)[~finite]) or not np.all(np.isfinite(held)[inside]):
        return True
    return bool(np.any(np.abs(held[inside] - exact[inside]) >= FORMATS[narrow].quantum(exact[inside])))


def share_equal_to_rounding(reference: Payload, candidate: Payload) -> tuple[int, int] | None:
    """(how many elements equal the reference's rounding to the candidate's dtype, elements).

    None if the candidate's dtype is not a narrower float.
    """
    ours, theirs = reference.dtype, candidate.dtype
    if ours not in _KINDS or theirs not in _KINDS or reference.bits.shape != candidate.bits.shape:
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
        return Cast(
            rounded=rounded,
            wide=wide,
            narrow=narrow,
            stored=stored,
            via=via,
            elements=source.size,
            changed=changed,
            max_rel=max_rel,
        )
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
    half = FORMATS[narrow].quantum(start) / 2
    return (int(moved.sum()), float(np.max(np.minimum(error / half, 1.0))), float(np.max(error / np.abs(start))))


def _same(one: Array, other: Array) -> Array:
    """Equal bits, elementwise, in float64; all NaNs are one."""
    same: Array = (one.view(np.int64) == other.view(np.int64)) | (np.isnan(one) & np.isnan(other))
    return same


def _line(payload: Payload) -> Array:
    found = values(payload.bits, payload.dtype).reshape(-1)
    return found.view(_PARTS[payload.dtype]) if payload.dtype in _PARTS else found


def _exact(line: Array, at: int) -> Array:
    return line[at : at + _BLOCK].astype(np.float64)
