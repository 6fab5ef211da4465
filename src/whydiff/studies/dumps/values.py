"""Compare the values of one match: their numbers, else their statistics, hashes or printed numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.capturing.store.dtypes import NATIVE
from whydiff.numbers.metrics import values
from whydiff.numbers.tolerance import ARTIFACT_UNITS, artifact_tolerance
from whydiff.studies.artifacts.items import compare_tensors
from whydiff.studies.artifacts.records import Item
from whydiff.studies.artifacts.relations import MOST, bits, relation
from whydiff.studies.artifacts.sources import Stored, in_memory
from whydiff.studies.dumps.pairing import Match
from whydiff.studies.dumps.records import Entry, Place, Status

_WORDS = ("md5", "printed")
"""Summaries that are equal or not; every other one is a number."""


def place_of(match: Match) -> Place:
    """What the comparison of a match says."""
    ours, theirs = match.reference, match.candidate
    known: dict[str, Any] = {
        "reference": " + ".join(entry.name for entry in ours),
        "candidate": " + ".join(entry.name for entry in theirs),
        "scope": ours[0].scope,
        "call": (ours[0].op, ours[0].during),
        "role": ours[0].role,
        "how": match.how,
        "spec": ours[0].spec,
        "order": (min if match.how in ("ranks", "tokens") else max)(entry.order for entry in ours),
    }
    if match.tokens is not None:
        known |= {"reference": match.tokens[0].name, "candidate": match.tokens[1].name}
        sides: list[Stored | None] = [side.joined() for side in match.tokens]
    else:
        sides = [_one(entries, match) for entries in (ours, theirs)]
    if sides[0] is None or sides[1] is None:
        status, reason = (
            _summaries(ours[0], theirs[0]) if len(ours) == len(theirs) == 1 else ("not compared", "too large")
        )
        return Place(**known, status=status, reason=reason)
    one, other = _reshaped(sides[0], sides[1])
    item = compare_tensors(one, other, units=ARTIFACT_UNITS)  # what either side computed went through several roundings
    if item is None:
        return Place(**known, status="identical")
    relative = item.value("rel_l2")
    found = relation(one, other, relative) if item.status == "differs" else None
    return Place(
        **known,
        status=_status(item, one, other),
        reason=f"{found.says()}; {item.reason}" if found is not None else item.reason,
        relative=relative,
        max_abs=item.max_abs,
        relation=found,
    )


def _status(item: Item, one: Stored, other: Stored) -> Status:
    """As of files, but another dtype whose values are within the tolerance is no difference: engines choose their own."""
    if item.status == "differs" and one.dtype != other.dtype and item.allclose:
        return "within tolerance"
    return item.status


def _one(entries: Sequence[Entry], match: Match) -> Stored | None:
    """The entries' numbers as one tensor; None if some were not dumped, or they are too large to be joined."""
    stored = [entry.stored for entry in entries]
    held = [one for one in stored if one is not None]
    if len(held) < len(stored):
        return None
    if len(held) == 1:
        return held[0]
    if sum(one.numbers for one in held) > MOST:
        return None
    arrays = [values(bits(one), one.dtype) for one in held]
    if match.how == "sum":
        total = arrays[0].astype(np.float32)
        for array in arrays[1:]:
            total = total + array
        return in_memory("sum", total)
    if len({one.dtype for one in held}) == 1 and held[0].dtype not in NATIVE:
        joined = in_memory("joined", np.concatenate([bits(one) for one in held], match.axis))
        return replace(joined, dtype=held[0].dtype)
    return in_memory("joined", np.concatenate(arrays, match.axis))


def _reshaped(one: Stored, other: Stored) -> tuple[Stored, Stored]:
    """Tokens of all sequences in one line against a batch of them: only axes of size 1, or the leading axes, differ."""
    last = one.shape[-1:] == other.shape[-1:] or {one.shape, other.shape} == {()}
    if one.shape != other.shape and one.numbers == other.numbers and last and one.order == other.order == "C":
        return one, replace(other, shape=one.shape)
    return one, other


def _summaries(ours: Entry, theirs: Entry) -> tuple[Status, str]:
    """Statistics, hashes or printed numbers."""
    names = [name for name in ours.summary if name in theirs.summary]
    if not names:
        return "not compared", "neither numbers nor a summary on both sides"
    if ours.spec != theirs.spec and not (ours.stored or theirs.stored):
        return "differs", f"dtype or shape: {ours.spec} and {theirs.spec}"
    apart = [name for name in names if not _equal(ours.summary[name], theirs.summary[name])]
    if not apart:
        return "same summary", f"the same {', '.join(names)}; the numbers were not dumped"
    dtype = ours.spec.partition("[")[0].split()[0] if ours.spec else ""
    allowed = artifact_tolerance(dtype or "float32").rtol
    numbers = [name for name in apart if name not in _WORDS]
    far = [name for name in numbers if not _near(ours.summary[name], theirs.summary[name], allowed, ours)]
    words = [name for name in apart if name in _WORDS]
    told = ", ".join(f"{name} {ours.summary[name]} and {theirs.summary[name]}" for name in (far or numbers)[:2])
    if far or (words and not numbers and len(names) == len(words)):
        return "differs", told or f"another {words[0]}"
    return "within tolerance", told or f"another {words[0]}"


def _equal(one: float | str, other: float | str) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return one == other or both_nan


def _near(one: float | str, other: float | str, rtol: float, entry: Entry) -> bool:
    """Whether two statistics are as near as rounding of the tensor makes them, by its largest statistic."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    sizes = [abs(value) for name, value in entry.summary.items() if not isinstance(value, str)]
    return abs(one - other) <= rtol * max([abs(one), abs(other), *(sizes if abs(one) < 1 else [])])
