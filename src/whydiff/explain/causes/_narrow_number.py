"""One number that both sides' ops are given, rounded to a narrower dtype on one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from whydiff.explain.causes._values import Array
from whydiff.explain.causes._view import View
from whydiff.explain.local_test import Operation
from whydiff.numbers.formats import FORMATS, round_to
from whydiff.records import Intervention

_NARROW = ("bfloat16", "float16")
_WRITTEN = 5
"""Digits that a number in code has at most where it may be written so (a size, not a tolerance)."""


@dataclass(frozen=True, slots=True)
class NarrowNumber:
    """A number that one side's op takes as it is, and the other side's rounded.

    Attributes:
        side: 0 or 1, where it is rounded.
        dtype: to which dtype.
        wide, narrow: the number, and rounded.
        at: which argument it is, of the reference's op and of the candidate's.
        made: whether it came rounded; else the op rounds it to the dtype that it computes in.
    """

    side: int
    dtype: str
    wide: float
    narrow: float
    at: tuple[int, int]
    made: bool

    def experiments(self, view: View) -> tuple[tuple[Intervention, ...], tuple[Intervention, ...]]:
        """The candidate's op is given the reference's number, and the reference's op the candidate's.

        What stands first must be a tensor: there the op is replaced.
        """
        assert view.single is not None
        given = (self.narrow, self.wide) if self.side == 0 else (self.wide, self.narrow)
        ours, theirs = (
            (Intervention("set-argument", str(call.site), (at, number)),) if at else ()
            for call, at, number in zip(view.single, self.at, (given[1], given[0]), strict=True)
        )
        return theirs or view.replace_op(), ours if theirs else ()


@dataclass(frozen=True, slots=True)
class _Number:
    """A number that an op is given: which argument, its value, and the read that it is (-1: it is a Python number)."""

    at: int
    value: float
    read: int = -1


def narrow_number(view: View) -> NarrowNumber | None:
    """The number of a single op that is rounded on one side only, if both results are that, bit for bit.

    The rounded side's number is the other's rounded to a narrower dtype, and is held in it, or is no number that code
    spells (a compiler keeps its value alone); or it is the same number, and the op rounds it, as kernels do with a tensor of
    one element beside others of a narrower dtype.
    """
    if view.single is None:
        return None
    sides = view.seen.operations
    for one in _numbers(sides[0]):
        for other in _numbers(sides[1]):
            if not _alike(_without(sides[0], one), _without(sides[1], other)):
                continue
            for side in (0, 1):
                found = _rounded(view, (one, other), side)
                if found is not None:
                    return found
    return None


def _rounded(view: View, numbers: tuple[_Number, _Number], side: int) -> NarrowNumber | None:
    """What is found if this side's number is the rounded one."""
    mine, wide = numbers[side], numbers[1 - side].value
    op = view.seen.operations[side]
    held = op.dtypes[mine.read] if mine.read >= 0 else ""
    for dtype in dict.fromkeys((held, op.dtype, *_NARROW)):
        if dtype not in FORMATS or FORMATS[dtype].precision >= FORMATS["float32"].precision:
            continue
        narrow = _to(wide, dtype)
        made = mine.value == narrow and (held == dtype or _is_rounded(narrow, dtype))
        whole = mine.read >= 0 and dtype in (held, op.dtype) and _to(mine.value, "float32") == _to(wide, "float32")
        if narrow == _to(wide, "float32") or not (made or whole):
            continue
        if _gives(view, side, mine, narrow) and _gives(view, 1 - side, numbers[1 - side], wide):
            return NarrowNumber(side, dtype, wide, narrow, (numbers[0].at, numbers[1].at), made)
    return None


def _is_rounded(number: float, dtype: str) -> bool:
    """Whether a number of no dtype of its own was rounded to one: nobody writes it, and it has most of the dtype's bits."""
    if not np.isfinite(number):
        return False
    numerator, _ = float(number).as_integer_ratio()
    bits = len(bin(abs(numerator)).rstrip("0")) - 2
    return bits > FORMATS[dtype].precision // 2 and float(f"{number:.{_WRITTEN}g}") != number


def _numbers(op: Operation) -> Iterator[_Number]:
    for at, argument in enumerate(op.arguments[0]):
        if type(argument) in (int, float):
            yield _Number(at, float(argument))
        elif isinstance(argument, dict) and "$read" in argument:
            read = op.reads[argument["$read"]]
            if read.size == 1 and read.dtype == np.float64:
                yield _Number(at, float(read.reshape(-1)[0]), argument["$read"])


def _without(op: Operation, number: _Number) -> list[Array]:
    return [read for i, read in enumerate(op.reads) if i != number.read]


def _alike(ours: list[Array], theirs: list[Array]) -> bool:
    if not ours or len(ours) != len(theirs):
        return False
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _gives(view: View, side: int, number: _Number, value: float) -> bool:
    """Whether a side's op, given a value for its number and rounded once or over float32, gives what was recorded."""
    op, wanted = view.seen.operations[side], view.outputs[side].reshape(-1)
    if op.dtype not in FORMATS:
        return False
    for given in dict.fromkeys((value, _to(value, "float32"))):
        reads, arguments = list(op.reads), op.arguments
        if number.read >= 0:
            reads[number.read] = np.full_like(reads[number.read], given)
        else:
            arguments = [[given if i == number.at else a for i, a in enumerate(arguments[0])], arguments[1]]
        exact = np.asarray(op.run(reads, arguments), np.float64).reshape(-1)
        for result in (exact, round_to(exact, "float32")):
            if np.array_equal(round_to(result, op.dtype), wanted, equal_nan=True):
                return True
    return False


def _to(value: float, dtype: str) -> float:
    return float(round_to(np.asarray([value], np.float64), dtype)[0])
