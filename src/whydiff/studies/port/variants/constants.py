"""Plain numbers in the code: an epsilon, a scale, a momentum; other on the two sides, or only on one."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.numbers.tolerance import EPSILONS
from whydiff.records import Call, Intervention
from whydiff.studies.port.bench import Bench
from whydiff.studies.port.hypotheses import Hypothesis
from whydiff.studies.port.rewrites import Applied, Rewrite


@dataclass(frozen=True)
class _Place:
    """Where a number stands: an argument of a call, or a tensor of no axes that the call reads.

    Attributes:
        call: which computes with it.
        position: of the argument; None if it is read.
        leaf: name of the tensor; empty: it is an argument.
    """

    call: Call
    position: Any = None
    leaf: str = ""


Places = Mapping[float, Sequence[_Place]]
_MOST = 6
"""Numbers of a side, and places of a number, that are tried (a size, not a tolerance)."""


def propose(bench: Bench, number: int) -> Iterator[Hypothesis]:
    """Each number that one side has alone for each that the other has alone; and for what leaves it without effect."""
    ours, theirs = (_numbers(bench, side, number) for side in (0, 1))
    lone = (_without(ours, theirs), _without(theirs, ours))
    for wanted in lone[0]:
        for given in lone[1]:
            for there in _ways(given, wanted):
                for here in _ways(wanted, given):
                    yield from _exchanged(bench, (ours, theirs), (wanted, given), here, there)
    for side, numbers in enumerate((ours, theirs)):
        for value in lone[side]:
            yield from _left_out(bench, side, value, numbers)


def _exchanged(
    bench: Bench, places: tuple[Places, Places], pair: tuple[float, float], here: float, there: float
) -> Iterator[Hypothesis]:
    """``here``: what the reference gets in the place of its number; ``there``: the candidate of its own."""
    wanted, given = pair
    parts = [_parts(bench, side, places[side][value]) for side, value in enumerate(pair)]
    if len({"limit" in part for part in parts}) > 1:
        return  # whatever is beyond all values would do for a limit
    added = all(part == {"term"} for part in parts)
    small = max(wanted, given) < EPSILONS or (added and min(wanted, given) < EPSILONS)
    code = "FO002" if small else "FO003"
    word = "epsilon" if small else "limit" if "limit" in parts[0] else "factor"
    for edits in _edits(places[0], wanted, here):
        for undone in _edits(places[1], given, there):
            yield Hypothesis(
                code=code,
                says=f"the candidate's {word} is {given:.6g}, the reference's {wanted:.6g}",
                said=(f"{wanted:.6g}", f"{given:.6g}"),
                fix=f"Give the candidate the reference's {word}, {wanted:.6g}.",
                teller=0,
                mine=edits,
                other=undone,
            )


def _parts(bench: Bench, side: int, some: Sequence[_Place]) -> set[str]:
    """What a number is at its places: a limit, a term that is added, or a factor."""
    adapter = for_framework(bench.traces[side].framework)
    found = set[str]()
    for place in some:
        roles, eps = adapter.roles(place.call.site.op), adapter.places(place.call.site.op).get("eps")
        added = Role.PLUS in roles or (eps is not None and place.position in eps and not place.leaf)
        found.add("limit" if Role.LIMITS in roles else "term" if added else "factor")
    return found


def _ways(own: float, foreign: float) -> tuple[float, ...]:
    """What to write for a number so that it does what the other side's does, which may divide where this multiplies."""
    if max(abs(own), abs(foreign)) < EPSILONS or not foreign:
        return (foreign,)
    return (foreign, 1 / foreign)


def _edits(places: Places, number: float, instead: float) -> Iterator[Rewrite]:
    """Everywhere in the region at once (with its complement 1 - x, if both are there), then place by place."""
    some = places[number]
    rest = next((x for x in places if x != number and _alike(x, 1 - number)), None)
    whole = [(place, instead) for place in some]
    if rest is not None and 0 < number < 1:
        yield _written([*whole, *((place, 1 - instead) for place in places[rest])])
    yield _written(whole)
    if len(some) > 1:
        for place in some[:_MOST]:
            yield _written([(place, instead)])


def _written(some: Iterable[tuple[_Place, float]]) -> Rewrite:
    """Other numbers at their places, all at once."""
    leaves = {place.leaf: functools.partial(np.full_like, fill_value=value) for place, value in some if place.leaf}
    edits = [_edit(place, value) for place, value in some if not place.leaf]
    return Rewrite(leaves=leaves, edits=tuple(edits))


def _edit(place: _Place, value: float) -> Intervention:
    return Intervention("set-argument", str(place.call.site), (place.position, value))


def _left_out(bench: Bench, side: int, value: float, places: Places) -> Iterator[Hypothesis]:
    adapter = for_framework(bench.traces[side].framework)
    neutral = {Role.TIMES: 1.0, Role.ROOT: 1.0, Role.PLUS: 0.0, Role.DIFFERENCE: 0.0}
    for place in places[value][:_MOST]:
        call = place.call
        role = next((role for role in neutral if role in adapter.roles(call.site.op)), None)
        if role is None:
            if Role.LIMITS in adapter.roles(call.site.op) and _limited(call) is not None:
                yield _unlimited(side, value, call)
            continue
        verb, more = ("add", "") if neutral[role] == 0 else ("scale", "by ")
        does = f"{verb}s {more}{value:.6g}"
        lone, lacking = (("reference", "candidate"), ("candidate", "reference"))[side]
        said = (does, "does not")
        yield Hypothesis(
            code="FO002" if abs(value) < EPSILONS else "FO003",
            says=f"the {lone} {does}, the {lacking} does not",
            said=said if side == 0 else (said[1], said[0]),
            fix=f"{'Let' if side == 0 else 'Do not let'} the candidate {verb} {more}{value:.6g} ({call.site}).",
            teller=side,
            mine=_written([(place, neutral[role])]),
        )


def _limited(call: Call) -> int | None:
    """Which read a call keeps between limits: the only one of its result's shape; None: there is none or several."""
    if len(call.writes) != 1:
        return None
    whole = call.writes[0].spec.shape
    found = [place for place, read in enumerate(call.reads) if read.spec.shape == whole]
    return found[0] if len(found) == 1 else None


def _unlimited(side: int, value: float, call: Call) -> Hypothesis:
    """What a call that keeps numbers between limits gives without one of them."""
    does, lone, lacking = f"limits to {value:.6g}", *(("reference", "candidate"), ("candidate", "reference"))[side]
    said = (does, "does not")

    def formula(applied: Applied) -> Sequence[Any]:
        (kept,) = applied.again()
        x = applied.reads[_limited(call) or 0]
        return [np.where(np.isclose(kept, value, rtol=2.0**-23, atol=0.0), x, kept)]

    return Hypothesis(
        code="FO008",
        says=f"the {lone} {does}, the {lacking} does not",
        said=said if side == 0 else (said[1], said[0]),
        fix=f"{'Let' if side == 0 else 'Do not let'} the candidate limit to {value:.6g} ({call.site}).",
        teller=side,
        mine=Rewrite(calls={call.index: formula}),
    )


def _numbers(bench: Bench, side: int, number: int) -> Places:
    """Plain numbers that the calls of a region are given, also as tensors of no axes (JAX makes them where no jit does)."""
    found: dict[float, list[_Place]] = {}
    cast = for_framework(bench.traces[side].framework)
    for call in bench.region(side, number):
        args, kwargs = call.arguments
        roles = cast.roles(call.site.op)
        read = () if roles & {Role.CAST, Role.CARRIES} else map(functools.partial(bench.number, side), call.reads)
        for leaf, value in filter(None, read):
            found.setdefault(value, []).append(_Place(call, leaf=leaf.name))
        for position, value in [*enumerate(args), *kwargs.items()]:
            whole = (
                Role.LIMITS in roles and isinstance(value, int) and not isinstance(value, bool)
            )  # as code writes limits
            if whole or (isinstance(value, float) and math.isfinite(value)):
                found.setdefault(float(value), []).append(_Place(call, position))
    return found


def _without(ours: Places, theirs: Places) -> list[float]:
    """Numbers that the other side has neither as they are nor as their reciprocals."""
    known = [*theirs, *(1 / x for x in theirs if x)]
    return [x for x in ours if not any(_alike(x, y) for y in known)][:_MOST]


def _alike(one: float, other: float) -> bool:
    """The same number, written in another precision."""
    return math.isclose(one, other, rel_tol=2.0**-8)
