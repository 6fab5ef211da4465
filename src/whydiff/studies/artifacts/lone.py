"""Tensors that one side alone has: the other's under another name, or several of the other's in one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.studies.artifacts.records import Relation, RelationKind
from whydiff.studies.artifacts.relations import MOST, bits, in_c_order
from whydiff.studies.artifacts.sources import Stored

SHARE = 1 << 20
MOST_LONE = 4096
"""Tensors of a side that are looked through."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Counterpart:
    """Tensors of the reference that are tensors of the candidate; one name on one side or on both."""

    reference: tuple[str, ...]
    candidate: tuple[str, ...]
    relation: Relation


def counterparts(ours: Mapping[str, Stored], theirs: Mapping[str, Stored]) -> Iterator[Counterpart]:
    """Lone tensors that correspond, bit for bit; those whose numbers are all the same (zeros, ones) tell nothing.

    Args:
        ours: tensors that only the reference has, by name.
        theirs: those that only the candidate has.
    """
    if not ours or not theirs or max(len(ours), len(theirs)) > MOST_LONE:
        return
    left, right = ({name: t for name, t in side.items() if _tells(t)} for side in (ours, theirs))
    digests: dict[str, list[str]] = {}
    for name, stored in left.items():
        digests.setdefault(_digest(stored), []).append(name)
    for name, stored in list(right.items()):
        same = digests.get(_digest(stored))
        if same:
            mine = same.pop(0)
            del left[mine], right[name]
            yield Counterpart((mine,), (name,), Relation(kind="renamed"))
    ways: tuple[tuple[dict[str, Stored], dict[str, Stored], RelationKind], ...]
    ways = (right, left, "fused"), (left, right, "split")
    for whole, parts, kind in ways:
        for name, stored in list(whole.items()):
            made = _made_of(stored, parts)
            if made is None:
                continue
            names, axis = made
            for part in names:
                del parts[part]
            del whole[name]
            sides = (tuple(names), (name,)) if kind == "fused" else ((name,), tuple(names))
            yield Counterpart(sides[0], sides[1], Relation(kind=kind, axis=axis))


def _tells(stored: Stored) -> bool:
    """Whether its first numbers are not all the same."""
    first = np.array(stored.source.line(0, min(stored.numbers, SHARE)))
    stored.source.release()
    return bool(first.size and (first != first[0]).any())


def _digest(stored: Stored) -> str:
    held = in_c_order(stored)
    found = hashlib.blake2b(f"{held.dtype}{held.shape}{held.digests}{held.order}".encode(), digest_size=16)
    for at in range(0, held.numbers, SHARE):
        found.update(np.ascontiguousarray(held.source.line(at, min(at + SHARE, held.numbers))).data)
    held.source.release()
    return found.hexdigest()


def _made_of(whole: Stored, parts: Mapping[str, Stored]) -> tuple[list[str], int] | None:
    """Names of two or more tensors that make this one, joined along an axis; -1: stacked along a new first one."""
    if not whole.shape or whole.numbers > MOST or whole.numbers < 2:
        return None
    fit = {n: p for n, p in parts.items() if p.dtype == whole.dtype and p.numbers < whole.numbers}
    if not fit:
        return None
    held = bits(whole)
    for axis in (-1, *range(min(len(whole.shape), 2))):
        shapes = {n: (1, *p.shape) if axis < 0 else p.shape for n, p in fit.items()}
        at = max(axis, 0)
        rest = [size for n, size in enumerate(whole.shape) if n != at]
        pieces = {n: s[at] for n, s in shapes.items() if len(s) == held.ndim and _others(s, at) == rest and s[at]}
        names = _joined(held, at, {n: fit[n] for n in pieces}, pieces)
        if names is not None:
            return names, axis
    return None


def _others(shape: Iterable[int], at: int) -> list[int]:
    return [size for n, size in enumerate(shape) if n != at]


def _joined(whole: Array, axis: int, parts: Mapping[str, Stored], sizes: Mapping[str, int]) -> list[str] | None:
    """The first order of parts that makes the whole; each is taken where it fits bit for bit."""
    names: list[str] = []
    loaded: dict[str, Array] = {}
    place = 0
    while place < whole.shape[axis]:
        for name, part in parts.items():
            if name in names or place + sizes[name] > whole.shape[axis]:
                continue
            if name not in loaded:
                loaded[name] = bits(part)
            piece = whole.take(range(place, place + sizes[name]), axis)
            if np.array_equal(piece.reshape(-1), loaded[name].reshape(-1)):
                names.append(name)
                place += sizes[name]
                break
        else:
            return None
    return names if len(names) > 1 else None
