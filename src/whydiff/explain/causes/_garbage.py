"""Does a buffer look like memory that nobody wrote? A measured pattern, and only ever weak evidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from whydiff.numbers.formats import FORMATS
from whydiff.numbers.metrics import is_integer, known_dtypes, values
from whydiff.numbers.tolerance import GARBAGE_EXPONENT, GARBAGE_JUMP
from whydiff.records import Payload

_LARGEST = tuple(FORMATS[dtype].largest for dtype in ("float16", "float32", "float64", "bfloat16"))


def garbage_in(reference: Payload, candidate: Payload) -> tuple[str, Mapping[str, Any]] | None:
    """The side that looks uninitialised while the other looks regular, and the numbers behind it.

    A finite element is wild if its magnitude lies outside 2**-E … 2**E with E = `GARBAGE_EXPONENT` and it is
    neither zero nor the largest value of a float dtype (masks hold that on purpose). Reinterpreted memory
    jumps: a wild element counts only if both of its nonzero neighbours are 2**J away, J = `GARBAGE_JUMP`, so
    that a decaying table, wild at its end, does not count.

    Returns:
        (side, data), or None: neither side, or both.
    """
    sides = {"reference": _numbers(reference), "candidate": _numbers(candidate)}
    if any(found is None for found in sides.values()):
        return None
    wild = [side for side, found in sides.items() if found and found["jumping"]]
    regular = [side for side, found in sides.items() if found and not found["wild"] and not found["nan"]]
    if len(wild) == 1 and len(regular) == 1:
        return wild[0], dict(sides[wild[0]] or {})
    return None


def _numbers(payload: Payload) -> dict[str, Any] | None:
    if payload.dtype not in known_dtypes() or is_integer(payload.dtype) or payload.dtype.startswith("complex"):
        return None
    line = values(payload.bits, payload.dtype).reshape(-1).astype(np.float64)
    magnitude = np.abs(line)
    finite = np.isfinite(line) & (line != 0)
    for largest in _LARGEST:
        finite &= magnitude != largest
    exponents = np.log2(magnitude[finite])
    wild = np.abs(exponents) > GARBAGE_EXPONENT
    jumping = 0
    if exponents.size > 1:
        jump = np.abs(np.diff(exponents))
        nearest = np.minimum(np.r_[np.inf, jump], np.r_[jump, np.inf])
        jumping = int(np.count_nonzero(wild & (nearest > GARBAGE_JUMP)))
    tiny = {"float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-14}.get(payload.dtype, 2.0**-1022)
    return {
        "elements": int(line.size),
        "wild": int(np.count_nonzero(wild)),
        "jumping": jumping,
        "nan": int(np.count_nonzero(np.isnan(line))),
        "subnormal": int(np.count_nonzero(finite & (magnitude < tiny))),
        "largest": float(np.max(magnitude[finite], initial=0.0)),
        "smallest": float(np.min(magnitude[finite], initial=np.inf)) if finite.any() else 0.0,
    }
