"""Where the recorded arguments of two calls differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from whydiff.records import Call

ABSENT = object()
"""In place of an argument that one side left out because it is the operator's default."""


def differing_arguments(reference: Any, candidate: Any) -> Iterator[tuple[Any, Any]]:
    """(reference's, candidate's) innermost values in which two argument templates differ (or `ABSENT`)."""
    if isinstance(reference, (list, tuple)) and isinstance(candidate, (list, tuple)):
        for ours, theirs in itertools.zip_longest(reference, candidate, fillvalue=ABSENT):
            yield from differing_arguments(ours, theirs)
    elif isinstance(reference, Mapping) and isinstance(candidate, Mapping):
        for key in dict.fromkeys((*reference, *candidate)):
            yield from differing_arguments(reference.get(key, ABSENT), candidate.get(key, ABSENT))
    elif reference is ABSENT or candidate is ABSENT or reference != candidate:
        yield reference, candidate


def fits(change: tuple[Any, Any], values: tuple[Any, Any]) -> bool:
    """Whether an argument changed from one value to the other; a default left out fits, but not on both sides."""
    present = [(found, value) for found, value in zip(change, values, strict=True) if found is not ABSENT]
    return bool(present) and all(type(f) is type(v) and bool(f == v) for f, v in present)


def one_overload(ours: Call, theirs: Call) -> bool:
    """Whether two calls of one function take their arguments alike; one of them may be its form in place."""
    if ours.site.op == theirs.site.op:
        return ours.target == theirs.target
    return ours.target.rpartition(".")[2] == theirs.target.rpartition(".")[2]


def as_value(argument: Any) -> tuple[Any] | None:
    """An argument or setting that can be part of an intervention: lists as tuples; None if it holds tensors or records."""
    if isinstance(argument, dict):
        return None
    if not isinstance(argument, (list, tuple)):
        return (argument,)
    items = [as_value(item) for item in argument]
    if any(item is None for item in items):
        return None
    return (tuple(item[0] for item in items if item is not None),)


__all__ = ["ABSENT", "as_value", "differing_arguments", "fits", "one_overload"]
