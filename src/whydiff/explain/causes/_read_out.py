"""Numbers that a program made of what it had read out: an argument that differs, and only follows from an earlier place.

Once something differs, every number that leaves the program later differs (a loss that is printed), and so do arguments
that are made of them. What the program makes of a number in Python is not recorded; but where an argument is the same
simple function of the number that was read out last on both sides, to the last digits of a float64, it follows from it
(one divided by half plus the loss). Where both sides' are of one form and have other constants, it is a difference of its
own. Else nobody can tell: it may follow, unless the reference gives the op just that number whatever was read out before.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whydiff.capturing.adapters import Executor
from whydiff.errors import WhydiffError
from whydiff.explain.arguments import given_otherwise
from whydiff.explain.case import Case
from whydiff.explain.causes._values import number as as_numbers
from whydiff.explain.causes._view import Finding
from whydiff.explain.sides import Side
from whydiff.pair.replay import replay
from whydiff.records import Call, Evidence, Intervention, Trace

_TRANSPLANT = "replace-op"
_LAST = 4
"""Numbers read out before an argument that it may be made of."""
_ALIKE = 1e-9
"""Constants so near are one: float64 keeps sixteen digits, and a sum that cancels loses some."""
_DIGITS = (None, 8, 7, 6, 5, 4, 3)
"""To how many digits a program may round what it read out."""
_UNITS = 100
"""Of the last digit that is kept, by which both sides must be apart: a match then is no chance of one in a few dozen."""
_SHORT = 4
"""Digits of a constant that somebody wrote down; a number that was computed has more."""


@dataclass(frozen=True, slots=True)
class Made:
    """What an argument is made of, on either side.

    Attributes:
        read: the call of the reference that gave Python the number.
        form: with ``c`` and ``x``.
        constants: the reference's, the candidate's.
    """

    read: Call
    form: str
    constants: tuple[float, float]

    @property
    def alike(self) -> bool:
        """Whether it is one function of the number that was read out."""
        ours, theirs = self.constants
        return abs(ours - theirs) <= _ALIKE * max(1.0, abs(ours))

    def spoken(self, side: int) -> str:
        """The formula with its constant."""
        return self.form.replace("c", f"{self.constants[side]:.9g}")


_FORMS: tuple[tuple[str, Callable[[float, float], float]], ...] = (
    ("c + x", lambda a, x: a - x),
    ("c x", lambda a, x: a / x),
    ("c / x", lambda a, x: a * x),
    ("c − x", lambda a, x: a + x),
    ("1 / (c + x)", lambda a, x: 1 / a - x),
    ("x^c", lambda a, x: math.log(a) / math.log(x)),
    ("exp(c x)", lambda a, x: math.log(a) / x),
    ("log(c + x)", lambda a, x: math.exp(a) - x),
    ("sqrt(c + x)", lambda a, x: a * a - x if a > 0 else math.nan),
)


def followed(case: Case, found: Mapping[int, Finding]) -> dict[int, Finding]:
    """Findings of arguments, with what they are made of.

    Args:
        case: the pair of runs.
        found: position of an origin → what explains it.
    """
    told = dict(found)
    for index in sorted(found, key=lambda i: case.localization.origins[i].calls):
        origin = case.localization.origins[index]
        if origin.kind != "arguments" or [i.name for i in told[index].interventions] != [_TRANSPLANT]:
            continue
        calls = case.calls_at(origin.calls)
        changed = given_otherwise(*calls)
        if len(changed) == 1 and _is_later(case, origin.calls) and _read_otherwise(case, origin.calls):
            told[index] = _told(case, told[index], _before(case, told, origin.calls), calls, changed[0])
    return told


def _told(
    case: Case, finding: Finding, before: Finding | None, calls: tuple[Call, Call], changed: tuple[int | str, Any, Any]
) -> Finding:
    which, ours, theirs = changed
    made = _made(case, calls, (ours, theirs)) if _is_number(ours) and _is_number(theirs) else None
    if made is not None:
        given = (Intervention("set-argument", str(calls[1].site), (which, ours)),)
        where = f"x is what {_maker(case, made.read)} gave Python"
        if made.alike:
            said = f"the number given to {calls[0].site} is {made.spoken(0)} on both sides, where {where}: it follows"
            evidence = (Evidence(said, _data(made)),)
            if before is not None:
                return replace(before, interventions=given, put_in=(), evidence=evidence, consequence=True)
            after, key = _maker(case, made.read), (finding.key, "follows")
            return replace(finding, key=key, evidence=(*evidence, *finding.evidence), interventions=given, after=after)
        said = f"the number given there is {made.spoken(0)} in the reference and {made.spoken(1)} in the candidate; {where}"
        formulas = f"{made.spoken(1)} in the candidate, {made.spoken(0)} in the reference"
        says = f"a number made of one that was read out, x, is {formulas}"
        measured = (Evidence(said, _data(made)), *finding.evidence)
        return replace(finding, key=(finding.key, made.form), interventions=given, evidence=measured, says=says)
    if _usual(case, calls[0], which, ours):
        return finding
    read = case.reference.calls[_last(case, calls[0].index)]
    return replace(finding, key=(finding.key, "may follow"), after=_maker(case, read))


def _data(made: Made) -> dict[str, Any]:
    return {"form": made.form, "constants": list(made.constants), "read": str(made.read.site)}


def _is_later(case: Case, calls: tuple[int, int]) -> bool:
    """Whether a difference starts before what was read out last."""
    upto = _last(case, calls[0])
    return any(min(origin.calls) >= 0 and origin.calls[0] < upto for origin in case.localization.origins)


def _before(case: Case, told: Mapping[int, Finding], calls: tuple[int, int]) -> Finding | None:
    """What explains the first place, if it lies before; of one step all places are the first."""
    origins = case.localization.origins
    upto = _last(case, calls[0])
    earlier = [i for i in told if origins[i].calls[0] < upto and not told[i].consequence and not told[i].after]
    return told[min(earlier, key=lambda i: origins[i].calls)] if earlier else None


@dataclass(frozen=True, slots=True)
class _ReadOut:
    """The calls of either side that give Python a number, their indices, and the first of them at which the sides differ."""

    calls: tuple[list[Call], list[Call]]
    indices: tuple[list[int], list[int]]
    apart: int

    def before(self, side: int, upto: int) -> int:
        """How many of a side's lie before a call."""
        return bisect.bisect_left(self.indices[side], upto)


def _read_out(case: Case) -> _ReadOut:
    return case.shared("calls that give numbers", lambda: _all_read_out(case.traces))


def _all_read_out(traces: tuple[Trace, Trace]) -> _ReadOut:
    ours, theirs = ([call for call in trace.calls if call.gives] for trace in traces)
    prints = ([[event.fingerprint for event in call.reads] for call in side] for side in (ours, theirs))
    shared = min(len(ours), len(theirs))
    apart = next((i for i, (a, b) in enumerate(zip(*prints, strict=False)) if a != b), shared)
    return _ReadOut((ours, theirs), ([call.index for call in ours], [call.index for call in theirs]), apart)


def _last(case: Case, upto: int) -> int:
    """The reference's last call before another that gives Python a number; -1: there is none."""
    known = _read_out(case)
    count = known.before(0, upto)
    return known.indices[0][count - 1] if count else -1


def _read_otherwise(case: Case, upto: tuple[int, int]) -> bool:
    """Whether what both sides read out before differs, and is as much."""
    known = _read_out(case)
    ours, theirs = known.before(0, upto[0]), known.before(1, upto[1])
    return ours == theirs > known.apart


def _made(case: Case, calls: tuple[Call, Call], given: tuple[float, float]) -> Made | None:
    """The simple function of a number read out before that an argument is on both sides."""
    known = case.shared("numbers read out", lambda: (_numbers(case, "reference"), _numbers(case, "candidate")))
    out = _read_out(case)
    ends = out.before(0, calls[0].index), out.before(1, calls[1].index)
    last = [out.calls[side][max(0, end - _LAST) : end] for side, end in enumerate(ends)]
    found: Made | None = None
    for ours, theirs in reversed(list(zip(*last, strict=False))):
        both = known[0].get(ours.index), known[1].get(theirs.index)
        if both[0] is None or both[1] is None or both[0] == both[1]:
            continue
        for form, constants in _fitting(given, (both[0], both[1])):
            made = Made(ours, form, constants)
            if made.alike:
                return made
            found = found or made
    return found


def _fitting(given: tuple[float, float], read: tuple[float, float]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Forms that fit both sides, with their constants: the same, or others that somebody wrote down."""
    for digits in _DIGITS:
        xs = [x if digits is None else round(x, digits) for x in read]
        if xs[0] == xs[1]:
            continue
        told_apart = digits is None or abs(xs[0] - xs[1]) >= _UNITS * 10.0**-digits
        if given == (xs[0], xs[1]):
            yield "x", (0.0, 0.0)
            continue
        if any(map(_is_short, given)):
            continue
        for form, constant in _FORMS:
            try:
                ours, theirs = (constant(a, x) for a, x in zip(given, xs, strict=True))
            except (ValueError, ZeroDivisionError, OverflowError):
                continue
            alike = abs(ours - theirs) <= _ALIKE * max(1.0, abs(ours))
            if (alike and told_apart) or (digits is None and _is_short(ours) and _is_short(theirs) and ours * theirs):
                yield form, (ours, theirs)


def _is_short(value: float) -> bool:
    return abs(value - float(f"{value:.{_SHORT}g}")) <= _ALIKE * max(1.0, abs(value))


def _numbers(case: Case, side: Side) -> dict[int, float]:
    """Index of a call that gives Python a number → the number, from one replay of a side."""
    found: dict[int, float] = {}
    last = max((max(origin.calls[side == "candidate"], 0) for origin in case.localization.origins), default=0)

    def before(executor: Executor, call: Call) -> None:
        if call.gives and len(call.reads) == 1 and call.reads[0].spec.numel == 1:
            found[call.index] = float(as_numbers(executor.payload(executor.read(call.reads[0]))).reshape(-1)[0])

    try:
        one = case.experiments.executor(side)
        replay(one, before=before, until=last)
    except WhydiffError:
        return {}
    return found


def _usual(case: Case, call: Call, which: int | str, value: Any) -> bool:
    """Whether an op is given a number at other times too, with other numbers read out before: then it is not made of them."""
    out, alike = _read_out(case), case.shared("calls of one op in one scope", lambda: _by_op(case.reference))
    own = out.before(0, call.index)
    for one in alike[call.target, call.site.scope]:
        if one.index != call.index and out.before(0, one.index) != own:
            places = one.arguments[0]
            given = one.arguments[1].get(which) if isinstance(which, str) else dict(enumerate(places)).get(which)
            if type(given) is type(value) and given == value:
                return True
    return False


def _by_op(trace: Trace) -> dict[tuple[str, str], list[Call]]:
    found: dict[tuple[str, str], list[Call]] = {}
    for call in trace.calls:
        found.setdefault((call.target, call.site.scope), []).append(call)
    return found


def _maker(case: Case, read: Call) -> str:
    """The site of what gave the number that was read out."""
    at = read.reads[0].producer if read.reads else -1
    return str(case.reference.calls[at].site if at >= 0 else read.site)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and bool(math.isfinite(value))


def told_of(found: Sequence[Finding]) -> list[Evidence]:
    """What is said of the places that follow from a cause."""
    return [evidence for finding in found if finding.consequence for evidence in finding.evidence[:1]][:1]
