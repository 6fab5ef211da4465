"""Where the recorded arguments of two calls differ."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from whydiff.records import Call, Intervention

Default = Callable[[str, int | str], tuple[Any] | None]
"""(an operator's target, position or name) → what it takes where that is left out; None: not known."""

_DIGITS = 1e-9
"""Of float64 numbers of which one is made of the other: sixteen digits, of which a difference from one loses some."""
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
    """Whether an argument changed from one value to the other, or as one that follows from it does (`follows`).

    A default left out fits, but not on both sides.
    """
    present = [(found, value) for found, value in zip(change, values, strict=True) if found is not ABSENT]
    same = bool(present) and all(type(f) is type(v) and bool(f == v) for f, v in present)
    return same or (all(type(one) is float for one in (*change, *values)) and follows(change, values))


def follows(change: tuple[float, float], values: tuple[float, float]) -> bool:
    """Whether two numbers are two others, one minus them, or one minus one and the same power of them."""
    powers = [1.0]
    if all(0 < value < 1 and one < 1 for value, one in zip(values, change, strict=True)):
        powers.append(float(round(math.log1p(-change[0]) / math.log(values[0]))))
    made = [values, *(tuple(1 - value**power for value in values) for power in powers if power >= 1)]
    return any(all(math.isclose(a, b, rel_tol=_DIGITS) for a, b in zip(change, one, strict=True)) for one in made)


def one_overload(ours: Call, theirs: Call) -> bool:
    """Whether two calls of one function take their arguments alike; one of them may be its form in place."""
    if ours.site.op == theirs.site.op:
        return ours.target == theirs.target
    return ours.target.rpartition(".")[2] == theirs.target.rpartition(".")[2]


def given_otherwise(ours: Call, theirs: Call, default: Default | None = None) -> list[tuple[int | str, Any, Any]]:
    """(position or name, reference's, candidate's) plain arguments that differ between calls of one overload.

    Args:
        ours, theirs: the calls.
        default: of their framework; then arguments that only one side gives by position count too, unless what they are
            is the default. None: they are left out.

    Returns:
        Where one side leaves an argument out, its default takes its place: if that is not known, `ABSENT` by position,
        None by name.
    """
    if not one_overload(ours, theirs):
        return []
    (args, kwargs), (others, named) = ours.arguments, theirs.arguments
    pairs: list[tuple[int | str, Any, Any]] = [(i, a, b) for i, (a, b) in enumerate(zip(args, others, strict=False))]
    names: list[int | str] = [*dict.fromkeys((*kwargs, *named))]
    if default is None:
        pairs += [(name, kwargs.get(name), named.get(name)) for name in names]
    else:
        names += range(len(pairs), max(len(args), len(others)))
        pairs += [(which, _given(ours, which, default), _given(theirs, which, default)) for which in names]
    return [(which, a, b) for which, a, b in pairs if a != b]


def _given(call: Call, which: int | str, default: Default) -> Any:
    if not left_out(call, which):
        return call.arguments[isinstance(which, str)][which]
    known = default(call.target, which)
    return known[0] if known is not None else None if isinstance(which, str) else ABSENT


def left_out(call: Call, which: int | str) -> bool:
    """Whether a call is not given an argument, so that its default counts."""
    args, kwargs = call.arguments
    return which not in kwargs if isinstance(which, str) else which >= len(args)


def as_given(ours: Call, theirs: Call, changed: tuple[int | str, Any, Any]) -> Intervention | None:
    """What gives the candidate's call the reference's argument, one of `given_otherwise`; None: that cannot be done."""
    which, value, _ = changed
    if isinstance(which, str):
        last, unknown = True, left_out(ours, which)
    else:
        last, unknown = which == len(theirs.arguments[0]) - 1, value is ABSENT
        if which > len(theirs.arguments[0]):
            return None
    given = () if unknown else as_value(value)
    return (
        None
        if given is None or (unknown and not last)
        else Intervention("set-argument", str(theirs.site), (which, *given))
    )


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
