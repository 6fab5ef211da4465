"""Compare two tensors, two values, two files' bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whydiff.numbers.comparison import take
from whydiff.numbers.metrics import Statistics, common_dtype, known_dtypes, measure_shares
from whydiff.numbers.tolerance import (
    ARTIFACT_PEAK,
    ARTIFACT_TOLERANCES,
    ARTIFACT_WRITTEN,
    UNIT_ROUNDOFF,
    Tolerance,
    artifact_tolerance,
)
from whydiff.studies.artifacts.records import Item, Kind, Status
from whydiff.studies.artifacts.relations import in_c_order
from whydiff.studies.artifacts.sources import FileRange, Stored, real_bits

SHARE_BYTES = 4 << 20
"""Bytes of one side that a thread reads at a time."""

Tolerances = Mapping[str, tuple[float, float]]


def compare_tensors(
    reference: Stored, candidate: Stored, table: Tolerances | None = None, units: float = 0.0
) -> Item | None:
    """One tensor of both sides; None if no bit differs.

    Integers and bool agree only if every one is equal. Floats are ``within tolerance`` if every pair is
    (`whydiff.numbers.tolerance.artifact_tolerance`) and no NaN is in either.

    Args:
        reference: as stored.
        candidate: likewise.
        table: tolerances that were asked for.
        units: of roundoff of their dtype that are allowed at least, of numbers that were computed twice
            (`rounded_tolerance`).
    """
    exact = reference.is_integer and candidate.is_integer
    texts = reference.digests or candidate.digests
    known: dict[str, Any] = {
        "name": reference.name,
        "kind": "value" if texts else "integer" if exact else "float",
        "reference": str(reference),
        "candidate": str(candidate),
    }
    if reference.shape != candidate.shape:
        return Item(**known, status="differs", reason="the shapes differ", structural=True)
    if reference.digests != candidate.digests:
        return Item(**known, status="differs", reason="texts on one side, numbers on the other")
    unknown = [d for d in dict.fromkeys((reference.dtype, candidate.dtype)) if d not in known_dtypes()]
    if unknown:
        return Item(**known, status="not compared", reason=f"no metric reads the dtype {' or '.join(unknown)}")
    dtype = common_dtype(reference.dtype, candidate.dtype)
    if dtype is None:
        return Item(**known, status="not compared", reason="no dtype holds the values of both exactly")
    reference, candidate = in_c_order(reference), in_c_order(candidate)
    if reference.order != candidate.order:
        return Item(**known, status="not compared", reason="one side is stored in Fortran order, the other in C order")
    allowed = Tolerance(0.0, 0.0, "")
    if not exact:
        rows = [artifact_tolerance(side.dtype, table) for side in (reference, candidate) if not side.is_integer]
        allowed = max(rows, key=lambda row: (row.rtol, row.atol))
    statistics = _measured(reference, candidate, allowed.rtol, allowed.atol)
    fitted = allowed if table else scaled_tolerance(allowed, _size(statistics))
    if statistics.different and fitted != allowed:
        allowed, statistics = fitted, _measured(reference, candidate, fitted.rtol, fitted.atol)
    wider = rounded_tolerance(allowed, statistics, max(map(_unit, (reference, candidate))), units)
    if statistics.mismatched and wider != allowed:
        allowed, statistics = wider, _measured(reference, candidate, wider.rtol, wider.atol)
    kinds = [side.packed or side.dtype for side in (reference, candidate)]
    other_dtype = "the dtypes differ" if kinds[0] != kinds[1] else ""
    if not statistics.different and not other_dtype:
        return None
    if texts:
        return Item(
            **known,
            status="differs",
            reason=f"{statistics.different} of {statistics.elements} texts differ, the first in row "
            f"{statistics.first_mismatch}",
            elements=statistics.elements,
            equal_share=1 - statistics.different / statistics.elements,
        )
    status, reason = _judged(statistics, exact, other_dtype)
    return Item(
        **known,
        status=status,
        reason=reason,
        rtol=allowed.rtol,
        atol=allowed.atol,
        tolerance=allowed.source,
        **_seed_statistics(statistics),
        measurements=take(statistics),
    )


def _unit(stored: Stored) -> float:
    return 0.0 if stored.is_integer else UNIT_ROUNDOFF.get(stored.dtype, 0.0)


def _size(found: Statistics) -> float:
    """Root mean square of the finite pairs, of the larger side."""
    return math.sqrt(max(found.sum_reference_square, found.sum_candidate_square) / max(found.finite, 1))


def _measured(reference: Stored, candidate: Stored, rtol: float, atol: float) -> Statistics:
    share = max(1, SHARE_BYTES // max(_width(reference), _width(candidate)))

    def load(start: int, stop: int) -> tuple[Any, Any]:
        return reference.source.line(start, stop), candidate.source.line(start, stop)

    try:
        return measure_shares(load, reference.numbers, reference.dtype, candidate.dtype, rtol, atol, share)
    finally:
        reference.source.release()
        candidate.source.release()


def _width(stored: Stored) -> int:
    names = {"bfloat16": 2, "complex64": 4, "complex128": 8}
    if stored.dtype in names:
        return names[stored.dtype]
    return 1 if stored.dtype.startswith("float8") else real_bits(stored.dtype).itemsize


def _seed_statistics(found: Statistics) -> dict[str, Any]:
    nan = found.nan_reference + found.nan_candidate - found.nan_both
    unequal = found.ulp_at_least[0] + nan
    return {
        "elements": found.elements,
        "allclose": not found.mismatched and not nan,
        "equal_share": 1 - unequal / found.elements if found.elements else 1.0,
        "mean_abs": found.sum_abs / found.finite if found.finite else math.nan,
        "max_abs": found.max_abs,
    }


def _judged(found: Statistics, exact: bool, other_dtype: str) -> tuple[Status, str]:
    told = f"{found.different} of {found.elements} elements differ"
    if exact:
        return "differs", "; ".join(text for text in (told, other_dtype) if text)
    nan = found.nan_mismatch
    outside = f"{found.mismatched} of {found.elements} elements outside the tolerance"
    parts = [outside if found.mismatched else told, f"{nan} NaN on one side only" if nan else "", other_dtype]
    status: Status = "differs" if found.mismatched or other_dtype else "within tolerance"
    return status, "; ".join(part for part in parts if part)


def compare_values(name: str, reference: Any, candidate: Any, table: Tolerances | None = None) -> Item | None:
    """One scalar of both sides; None if they are equal, down to the sign of a zero.

    Two floats are judged by the tolerance of float64, without its absolute part: a learning rate of 1e-4 is not one of 2e-4.
    Numbers of few digits were written by somebody (a setting, not a measurement) and agree only if they are equal.
    """
    if type(reference) is type(candidate) and _same(reference, candidate):
        return None
    kind: Kind = "value"
    item: dict[str, Any] = {"name": name, "kind": kind, "reference": shown(reference), "candidate": shown(candidate)}
    both_floats = isinstance(reference, float) and isinstance(candidate, float)
    if not both_floats or not (math.isfinite(reference) and math.isfinite(candidate)):
        types = f"the values are equal, {type(reference).__name__} and {type(candidate).__name__} are not"
        equal = type(reference) is not type(candidate) and reference == candidate
        return Item(**item, status="differs", reason=types if equal else "the values differ")
    allowed = artifact_tolerance("float64", table) if table else lone_tolerance(reference, candidate)
    distance = abs(candidate - reference)
    within = distance <= allowed.atol + allowed.rtol * abs(reference)
    return Item(
        **item,
        status="within tolerance" if within else "differs",
        reason="the values differ",
        elements=1,
        allclose=within,
        equal_share=0.0,
        mean_abs=distance,
        max_abs=distance,
        rtol=allowed.rtol,
        atol=allowed.atol,
        tolerance=allowed.source,
    )


def _same(reference: Any, candidate: Any) -> bool:
    if isinstance(reference, float | complex):
        return repr(reference) == repr(candidate)  # zeros have a sign, and NaN is NaN
    return bool(reference is candidate or reference == candidate)


def shown(value: Any) -> str:
    """A value for a report, in at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > 1 << 10:  # Python refuses to print very long ones
        return f"an integer of {value.bit_length()} bits"
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def compare_bytes(reference: Path, candidate: Path) -> Item | None:
    """Two files' bytes, or those of all files in two folders; None if they are equal."""
    if reference.is_dir() or candidate.is_dir():
        return _folders(reference, candidate)
    sizes = reference.stat().st_size, candidate.stat().st_size
    item: dict[str, Any] = {
        "name": "(bytes)",
        "kind": "bytes",
        "reference": f"{sizes[0]} bytes",
        "candidate": f"{sizes[1]} bytes",
    }
    if sizes[0] != sizes[1]:
        return Item(**item, status="differs", reason="the sizes differ")
    if not sizes[0]:
        return None
    lines = [
        Stored("", "uint8", (sizes[0],), FileRange(path, 0, sizes[0], real_bits("uint8")))
        for path in (reference, candidate)
    ]
    found = _measured(lines[0], lines[1], 0.0, 0.0)
    if not found.different:
        return None
    return Item(
        **item,
        status="differs",
        elements=found.elements,
        equal_share=1 - found.different / found.elements,
        reason=f"{found.different} of {found.elements} bytes differ, the first at {found.first_mismatch}",
    )


def _folders(reference: Path, candidate: Path) -> Item | None:
    sides = [
        {file.relative_to(root).as_posix(): file for file in sorted(root.rglob("*")) if file.is_file()}
        for root in (reference, candidate)
    ]
    names = dict.fromkeys((*sides[0], *sides[1]))
    differ = [n for n in names if n not in sides[0] or n not in sides[1] or compare_bytes(sides[0][n], sides[1][n])]
    if not differ:
        return None
    told = [f"{len(side)} files" for side in sides]
    reason = f"{len(differ)} of {len(names)} files differ, the first {differ[0]}"
    return Item("(bytes)", "bytes", "differs", told[0], told[1], reason)


def scaled_tolerance(tolerance: Tolerance, size: float) -> Tolerance:
    """A tolerance whose absolute part fits a tensor's own magnitude (`ARTIFACT_PEAK`).

    Args:
        tolerance: of the dtype.
        size: root mean square, the larger one of both sides.
    """
    atol = tolerance.rtol * ARTIFACT_PEAK * size
    if not atol < tolerance.atol:
        return tolerance
    return Tolerance(tolerance.rtol, atol, f"{tolerance.source}, scaled to its size")


def rounded_tolerance(tolerance: Tolerance, found: Statistics, unit: float, units: float) -> Tolerance:
    """A tolerance for numbers that either side computed through several roundings: small sums err by what large terms do.

    It is wider only where the tensors as wholes are one roundoff apart or less: what scales all of them is not rounding.

    Args:
        tolerance: of the dtype.
        found: both tensors.
        unit: unit roundoff of the coarser dtype.
        units: how many of them, of a number itself and of the root mean square.
    """
    if not units or found.sum_square > unit**2 * found.sum_reference_square:
        return tolerance
    size = math.sqrt(found.sum_reference_square / max(found.finite, 1))
    rtol, atol = max(tolerance.rtol, units * unit), max(tolerance.atol, units * unit * size)
    return Tolerance(rtol, atol, f"{units:g} roundoffs of a number and of the tensor's size")


def lone_tolerance(reference: float, candidate: float) -> Tolerance:
    """What is allowed between two numbers that stand alone: relative to themselves, and nothing between two settings."""
    rtol = ARTIFACT_TOLERANCES[""][0]
    if all(float(f"{value:.{ARTIFACT_WRITTEN}g}") == value for value in (reference, candidate)):
        return Tolerance(0.0, 0.0, "numbers of few digits")
    return Tolerance(rtol, 0.0, "stored numbers")
