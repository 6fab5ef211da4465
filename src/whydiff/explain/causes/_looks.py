"""Which elements of which tensor a read looks at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.sides import Side
from whydiff.numbers.rearrangement import Indices
from whydiff.records import Event, Leaf, Trace


def places(event: Event) -> Indices:
    """Flat positions within its storage that an event looks at, row-major."""
    spec = event.spec
    found = np.full(spec.shape, spec.offset, dtype=np.int64)
    strides = spec.strides or tuple(math.prod(spec.shape[i + 1 :]) for i in range(len(spec.shape)))
    for axis, (size, stride) in enumerate(zip(spec.shape, strides, strict=True)):
        found += (np.arange(size) * stride).reshape((-1,) + (1,) * (len(spec.shape) - axis - 1))
    return found.reshape(-1)


def one_value(case: Case, er: Event, ec: Event) -> bool:
    """Whether two reads look at values of paired calls, or at leaves of one name (constants: of one content).

    What two programs are given, each calls by its own name: there too the content tells.
    """
    if er.producer >= 0 and ec.producer >= 0:
        return case.partners[0].get(er.producer) == ec.producer
    if er.producer != -1 or ec.producer != -1:
        return False
    ours, theirs = _leaves(case, "reference", er), _leaves(case, "candidate", ec)
    return any(_is_one(case, a, b) for a in ours for b in theirs)


def _is_one(case: Case, ours: Leaf, theirs: Leaf) -> bool:
    if ours.name == case.rename(theirs.name):
        return ours.role != "constant" or _alike(ours, theirs)
    return ours.role == theirs.role == "input" and _alike(ours, theirs)


def equal_leaves(case: Case, er: Event, ec: Event) -> bool:
    """Whether two reads look at leaves that hold the same bits, or at no leaves."""
    ours, theirs = _leaves(case, "reference", er), _leaves(case, "candidate", ec)
    return not ours or not theirs or any(_alike(a, b) for a in ours for b in theirs)


def leaves(trace: Trace, event: Event) -> list[Leaf]:
    """The leaves that an event looks at; none if a call wrote what it looks at."""
    return [leaf for leaf in trace.leaves if event.producer == -1 and leaf.storage == event.storage]


def _leaves(case: Case, side: Side, event: Event) -> Sequence[Leaf]:
    """The same of one side of a case, whose leaves are sorted by storage once."""
    if event.producer != -1:
        return ()
    found: Mapping[int, Sequence[Leaf]] = case.shared(f"leaves of the {side}", lambda: _by_storage(case.trace(side)))
    return found.get(event.storage, ())


def constants(case: Case, reads: tuple[Event, Event]) -> tuple[Leaf, Leaf] | None:
    """Two constants of equal shape and dtype that differ, if that is what is read."""
    found = []
    for trace, event in zip(case.traces, reads, strict=True):
        leaves = [leaf for leaf in trace.leaves if event.producer == -1 and leaf.storage == event.storage]
        if len(leaves) != 1 or leaves[0].role != "constant" or leaves[0].fingerprint is None:
            return None
        found.append(leaves[0])
    ours, theirs = found
    alike = ours.spec.shape == theirs.spec.shape and ours.spec.dtype == theirs.spec.dtype
    return (ours, theirs) if alike and ours.fingerprint != theirs.fingerprint else None


def _by_storage(trace: Trace) -> dict[int, list[Leaf]]:
    found: dict[int, list[Leaf]] = {}
    for leaf in trace.leaves:
        found.setdefault(leaf.storage, []).append(leaf)
    return found


def _alike(one: Leaf, other: Leaf) -> bool:
    known = one.fingerprint is not None and one.spec.dtype == other.spec.dtype
    return known and one.spec.shape == other.spec.shape and one.fingerprint == other.fingerprint
