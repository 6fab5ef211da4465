"""Numbers in the code that came to one side's op rounded to its dtype: a traced program holds them as the op takes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.read_alike import casts_apart, given_back, told_apart
from whydiff.explain.sides import Side
from whydiff.numbers.formats import FORMATS, round_to
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Call, Intervention, Leaf


@dataclass(frozen=True, slots=True)
class RoundedNumber:
    """A number that both calls of a pair are given, one of them rounded to the narrower dtype in which it computes.

    Attributes:
        sites: of the reference's call, and of the candidate's.
        which: position or name of the argument.
        values: the reference's, and the candidate's.
    """

    sites: tuple[str, str]
    which: int | str
    values: tuple[float, float]


def rounded_numbers(case: Case) -> tuple[RoundedNumber, ...]:
    """All of them, in the order of the calls; worked out once."""
    return case.shared("rounded numbers", lambda: tuple(_found(case)))


def numbers_back(case: Case, side: Side = "candidate") -> tuple[Intervention, ...]:
    """What gives the calls of a side the other side's numbers."""
    mine = int(side == "candidate")
    return tuple(
        Intervention("set-argument", one.sites[mine], (one.which, one.values[1 - mine]))
        for one in rounded_numbers(case)
    )


def all_given_back(case: Case, pairs: Sequence[tuple[Leaf, Leaf]] | None = None) -> tuple[Intervention, ...]:
    """What gives the candidate the reference's state and inputs that differ (or some), and its numbers that were rounded."""
    return (*given_back(case, pairs), *numbers_back(case))


def only_rounded(case: Case) -> bool:
    """Whether state, inputs and numbers differ by rounding alone, and at least one of them does."""
    return bool(casts_apart(case)) or (not told_apart(case) and bool(rounded_numbers(case)))


def _found(case: Case) -> Iterator[RoundedNumber]:
    for both in case.paired():
        ours, theirs = both
        if ours.site.op != theirs.site.op or ours.arguments == theirs.arguments:
            continue
        dtypes = _dtype(ours), _dtype(theirs)
        units = [UNIT_ROUNDOFF.get(dtype, 0.0) for dtype in dtypes]
        narrow = int(units[1] > units[0])
        if units[0] == units[1] or not all(units) or dtypes[narrow] not in FORMATS:
            continue
        given = _arguments(theirs)
        for which, one in _arguments(ours).items():
            other = given.get(which)
            if type(one) is not float or type(other) is not float:
                continue
            values = one, other
            if _is_rounded(values[1 - narrow], values[narrow], dtypes[narrow]):
                yield RoundedNumber((str(ours.site), str(theirs.site)), which, values)


def _arguments(call: Call) -> dict[int | str, Any]:
    args, keywords = call.arguments
    return {**dict(enumerate(args)), **keywords}


def _is_rounded(wide: float, narrow: float, dtype: str) -> bool:
    """Whether a number is another one, rounded; one that vanishes or overflows is no rounding."""
    if wide == narrow or not narrow or not (math.isfinite(wide) and math.isfinite(narrow)):
        return False
    return float(round_to(np.asarray([wide], np.float64), dtype)[0]) == narrow


def _dtype(call: Call) -> str:
    """The narrowest dtype among what a call reads and writes."""
    dtypes = [event.spec.dtype for event in (*call.reads, *call.writes) if event.spec.dtype in UNIT_ROUNDOFF]
    return max(dtypes, key=UNIT_ROUNDOFF.__getitem__, default="")
