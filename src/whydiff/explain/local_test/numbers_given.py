"""Plain numbers that code gives to the ops of a region: another one on one side that gives the other side's function.

An epsilon, a factor, a base, a slope. The ops need not correspond: each side is carried out in float64 with another number
in the place of its own, and has to give what the other side gives, both ways.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.local_test.examine import _FAILURES
from whydiff.explain.local_test.narrowed import Sides, apart
from whydiff.explain.local_test.operation import Array
from whydiff.numbers.tolerance import EPSILONS, HYPOTHESIS_MARGIN, SAME_FUNCTION, SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Call, Event, Intervention

_MOST = 8
"""Numbers of a side that are tried, the likeliest first (a size, not a tolerance)."""
_STEPS = 16
_STANDS = 0.99
"""A step that leaves so much of the distance leads nowhere: the last ones before the values are found leave hardly any."""
_ROUNDED = SAME_FUNCTION * UNIT_ROUNDOFF["float32"]
_DIGITS = (1, 2, 3, 4, 6, 9)
_REACH = 1e-3
_ARITHMETIC = {Role.ELEMENTWISE, Role.PLUS, Role.TIMES, Role.DIFFERENCE, Role.ROOT, Role.LIMITS}
_TAKES_NUMBERS = {Role.PLUS, Role.TIMES, Role.DIVIDES, Role.DIFFERENCE}
_READS = {Role.CAST, Role.CARRIES}
_OF_A_KIND = {"limit", "correction"}
"""Whatever is beyond all values would do for a limit; a correction counts."""
_MAY_BE_NOTHING = ("epsilon", "correction")


@dataclass(frozen=True, slots=True)
class Number:
    """A number in the code of one side, at every place of a region where it stands.

    Attributes:
        value: it.
        places: (call, position or name of the argument) each.
        kind: ``"epsilon"``, ``"factor"``, ``"divisor"``, ``"attention scale"``, ``"term"``,
            ``"limit"``, or what the op calls the argument.
    """

    value: float
    places: tuple[tuple[Call, int | str], ...]
    kind: str

    def set(self, value: float) -> tuple[Intervention, ...]:
        """What gives its ops another number."""
        return tuple(Intervention("set-argument", str(call.site), (which, value)) for call, which in self.places)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Numbers of one side, or of both: with others in their places, a side gives what the other gives.

    Attributes:
        numbers: the reference's, the candidate's; of a side that has none that would do: none.
        instead: what stands in their places then.
        left: how far the two are apart then, over the reference's size, each way.
        before: as they are.
    """

    numbers: tuple[tuple[Number, ...], tuple[Number, ...]]
    instead: tuple[tuple[float, ...], tuple[float, ...]]
    left: tuple[float, float]
    before: float

    @property
    def is_exchange(self) -> bool:
        """Whether each side takes the other's numbers, and not others that do the same at another place."""
        if len(self.numbers[0]) != len(self.numbers[1]):
            return False
        ways = zip(self.numbers, self.numbers[::-1], self.instead, strict=True)
        return all(
            sorted(f"{_in_place(a, b):.6g}" for a, b in zip(_by_kind(own), _by_kind(other), strict=True))
            == sorted(f"{value:.6g}" for value in instead)
            for own, other, instead in ways
        )

    def set(self, side: int) -> tuple[Intervention, ...]:
        """What gives one side the other's numbers."""
        chosen = zip(self.numbers[side], self.instead[side], strict=True)
        return tuple(item for number, value in chosen for item in number.set(value))


def _by_kind(numbers: Sequence[Number]) -> list[Number]:
    return sorted(numbers, key=lambda one: one.kind)


class _Side:
    """One side's region, to be carried out with other numbers."""

    def __init__(self, sides: Sides, side: int) -> None:
        self.trace, self.run, seen = sides.case.traces[side], functools.partial(sides.run, side), sides.seen
        self.calls, self.operation = seen.calls[side], seen.operations[side]
        self.adapter = for_framework(self.trace.framework)
        self.inputs = seen.reads[side]
        self.own = self.run(()).reshape(-1)
        self.numbers = list(self._numbers())

    def made(self, items: Sequence[Intervention]) -> Array | None:
        """What it gives under interventions, flat; None if that cannot be carried out, or is not finite where it was."""
        try:
            found = self.run(items).reshape(-1)
        except _FAILURES:
            return None
        return found if found.shape == self.own.shape else None

    def _numbers(self) -> Iterator[Number]:
        found: dict[tuple[float, str], list[tuple[Call, int | str]]] = {}
        for call in self.calls:
            for which, value in self._given(call):
                kind = self._kind(call, which, value)
                if math.isfinite(value) and (value or kind in _MAY_BE_NOTHING):
                    found.setdefault((value, kind), []).append((call, which))
        for (value, kind), places in found.items():
            yield Number(value, tuple(places), kind)
            if len(places) > 1:
                yield from (Number(value, (place,), kind) for place in places[:_MOST])

    def _given(self, call: Call) -> Iterator[tuple[int | str, float]]:
        args, kwargs = call.arguments
        roles, places = self.adapter.roles(call.site.op), self.adapter.places(call.site.op)
        for which, value in [*enumerate(args), *kwargs.items()]:
            if which == "correction":
                continue
            if isinstance(value, float) or (type(value) is int and roles & _ARITHMETIC):
                yield which, float(value)
            elif isinstance(value, Mapping) and "$read" in value and roles & _TAKES_NUMBERS:
                number = self._read(call.reads[value["$read"]])
                if number is not None:
                    yield which, number
        if "scale" in places and Role.ATTENTION in roles and kwargs.get("scale") is None and call.reads:
            yield "scale", 1 / math.sqrt(call.reads[0].spec.shape[-1])
        if Role.SPREAD in roles:
            yield "correction", float(1 if kwargs.get("correction") is None else kwargs["correction"])
        known = self.adapter.default(call.target, len(args))
        if known is not None and isinstance(known[0], float):
            yield len(args), known[0]

    def _read(self, event: Event) -> float | None:
        """The number of the code that a call reads as a tensor of one element; None: it reads another value."""
        calls = {call.index: call for call in self.calls}
        while event.spec.numel == 1 and event.producer in calls:
            call = calls[event.producer]
            if len(call.reads) != 1 or not self.adapter.roles(call.site.op) & _READS:
                return None
            (event,) = call.reads
        constant = any(leaf.storage == event.storage and leaf.role == "constant" for leaf in self.trace.leaves)
        if event.spec.numel != 1 or event.producer >= 0 or not constant:
            return None
        values = zip(self.inputs, self.operation.reads, strict=True)
        return next((float(v.reshape(-1)[0]) for e, v in values if e.storage == event.storage and v.size == 1), None)

    def _kind(self, call: Call, which: int | str, value: float) -> str:
        roles, places = self.adapter.roles(call.site.op), self.adapter.places(call.site.op)
        meaning = next((name for name, place in places.items() if which in place), "")
        if "eps" in (meaning, self.adapter.argument(call.target, which)) or (
            Role.PLUS in roles and 0 < value < EPSILONS
        ):
            return "epsilon"
        if Role.PLUS in roles:
            return "term"
        if meaning == "scale":
            return "attention scale"
        if which == "correction":
            return "correction"
        if Role.TIMES in roles:
            return "factor"
        if Role.DIVIDES in roles and which == 1:
            return "divisor"
        if Role.LIMITS in roles:
            return "limit"
        if Role.ELEMENTWISE in roles and which in (0, 1):
            return f"{('first', 'second')[int(which)]} operand of {call.site.op}"
        return f"{self.adapter.argument(call.target, which)} of {call.site.op}"


def otherwise(regions: Sides) -> Otherwise | None:
    """The number in which two regions differ, and in nothing else; None: it is no number, or more than one.

    Args:
        regions: the sides of an examined region, which compute different functions.
    """
    try:
        sides = [_Side(regions, side) for side in (0, 1)]
    except (*_FAILURES, WhydiffError):
        return None
    ours, theirs = (side.own for side in sides)
    before = apart(ours, theirs)
    if not (sides[0].numbers or sides[1].numbers) or not 0 < before < math.inf:
        return None
    for one, other in _pairs(sides):
        here, there = _in_place(one, other), _in_place(other, one)
        left = _left(sides[0].made(one.set(here)), theirs, before)
        back = None if left is None else _left(sides[1].made(other.set(there)), ours, before)
        if left is not None and back is not None:
            return Otherwise(((one,), (other,)), ((here,), (there,)), (left, back), before)
    found = _solved(sides[0], theirs, before), _solved(sides[1], ours, before)
    if found[0] is None and found[1] is None:
        return None
    first, second = (one or ((), (), before) for one in found)
    if _same(first[0], second[0]):  # the same numbers at another place
        return None
    if _in_one_ratio(ours, theirs) and not _is_lone_factor(*(some for some in (first, second) if some[0])):
        return None  # any number that the whole is multiplied by would do
    return Otherwise((first[0], second[0]), (first[1], second[1]), (first[2], second[2]), before)


def _same(ours: Sequence[Number], theirs: Sequence[Number]) -> bool:
    return bool(ours) and sorted(n.value for n in ours) == sorted(n.value for n in theirs)


def _in_one_ratio(ours: Array, theirs: Array) -> bool:
    power = float(ours @ ours)
    return not math.isfinite(power) or apart(theirs, float(ours @ theirs) / power * ours) <= _ROUNDED


def _is_lone_factor(*found: _Solution) -> bool:
    """Whether one side alone multiplies by a number, which without effect is one."""
    return len(found) == 1 and found[0][1] == (1.0,) and found[0][0][0].kind in ("factor", "divisor")


def _pairs(sides: Sequence[_Side]) -> Iterator[tuple[Number, Number]]:
    """Numbers that only one side has, one of each."""
    lone = [
        [one for one in mine.numbers if not any(_alike(one, other) for other in theirs.numbers)][:_MOST]
        for mine, theirs in (sides, sides[::-1])
    ]
    for one, other in itertools.product(*lone):
        if one.kind == other.kind or not {one.kind, other.kind} & _OF_A_KIND:
            yield one, other


def _alike(one: Number, other: Number) -> bool:
    return math.isclose(one.value, _in_place(one, other), rel_tol=2.0**-8)


def _in_place(own: Number, other: Number) -> float:
    """What to write for a number so that it does what the other does, which may divide where this one multiplies."""
    if (own.kind == "divisor") == (other.kind == "divisor"):
        return other.value
    return 1 / other.value if other.value else math.inf


def _left(made: Array | None, wanted: Array, before: float) -> float | None:
    """How far a result is from what it is to be, if that is no more than constants are rounded by."""
    left = math.inf if made is None else apart(wanted, made)
    return left if left <= min(_ROUNDED, before / HYPOTHESIS_MARGIN) else None


_Solution = tuple[tuple[Number, ...], tuple[float, ...], float]


def _solved(side: _Side, wanted: Array, before: float) -> _Solution | None:
    """Numbers of one side and the values at which it gives what is wanted; one if one is enough, else two.

    The likeliest first, by how the result moves with them.
    """
    known = np.isfinite(wanted) & np.isfinite(side.own)
    missing = (wanted - side.own)[known]
    moves = []
    for number in side.numbers[: 2 * _MOST]:
        made = side.made(number.set(number.value + _step(number.value)))
        if made is not None and (move := (made - side.own)[known]).any():
            moves.append((abs(float(move @ missing)) / float(np.linalg.norm(move)), number))
    likely = [number for _, number in sorted(moves, key=lambda one: -one[0])][: _MOST // 2]
    for together in (1, 2):
        tried = (_at_values(side, numbers, wanted, before) for numbers in itertools.combinations(likely, together))
        found = [one for one in tried if one is not None]
        if found:
            return min(found, key=lambda one: len(spelt(one[1])))
    return None


def _at_values(side: _Side, numbers: tuple[Number, ...], wanted: Array, before: float) -> _Solution | None:
    """The values at which these numbers do it, as short as they can be written; None: they cannot."""
    found = _fitted(side, numbers, wanted)
    best = None if found is None else _left(side.made(_set(numbers, found)), wanted, before)
    if found is None or best is None:
        return None
    for values in (_rounded(found, numbers, digits) for digits in _DIGITS):
        left = _left(side.made(_set(numbers, values)), wanted, before)
        if left is not None and left <= max(best * HYPOTHESIS_MARGIN, SCALING_FLOOR / HYPOTHESIS_MARGIN):
            return numbers, values, left
    return numbers, found, best


def spelt(values: Sequence[float]) -> str:
    """Numbers in words: what code says is short."""
    return " and ".join(f"{value:.6g}" for value in values)


def _step(value: float) -> float:
    """By how much a number is moved to see what comes of it."""
    return value * _REACH or _REACH**2


def _rounded(values: Sequence[float], numbers: Sequence[Number], digits: int) -> tuple[float, ...]:
    return tuple(
        0.0 if abs(value) <= UNIT_ROUNDOFF["float32"] * abs(number.value) else float(f"{value:.{digits}g}")
        for value, number in zip(values, numbers, strict=True)
    )


def _set(numbers: Sequence[Number], values: Sequence[float]) -> tuple[Intervention, ...]:
    return tuple(item for number, value in zip(numbers, values, strict=True) for item in number.set(value))


def _fitted(side: _Side, numbers: Sequence[Number], wanted: Array) -> tuple[float, ...] | None:
    """The values nearest in least squares, by Gauss and Newton."""
    if any(number.kind == "correction" for number in numbers):  # a count: the other usual one
        return (1 - numbers[0].value,) if len(numbers) == 1 else None
    values, own, last = tuple(number.value for number in numbers), side.own, math.inf
    for _ in range(_STEPS):
        beyond = [
            side.made(_set(numbers, [v + _step(v) * (i == at) for i, v in enumerate(values)]))
            for at in range(len(numbers))
        ]
        known = np.isfinite(wanted) & np.isfinite(own)
        slopes = [
            (made - own)[known] / _step(value) for made, value in zip(beyond, values, strict=True) if made is not None
        ]
        if len(slopes) < len(numbers) or not all(np.isfinite(slope).all() for slope in slopes):
            return None
        moved = np.linalg.lstsq(np.stack(slopes, -1), (wanted - own)[known], rcond=None)[0]
        found = tuple(float(value + move) for value, move in zip(values, moved, strict=True))
        made = side.made(_set(numbers, found))
        left = math.inf if made is None else apart(wanted, made)
        if made is None or left >= last:
            break
        stands = left > _STANDS * last or left <= SCALING_FLOOR / HYPOTHESIS_MARGIN
        values, own, last = found, made, left
        if stands:
            break
    return values if last < math.inf else None


__all__ = ["Number", "Otherwise", "otherwise", "spelt"]
