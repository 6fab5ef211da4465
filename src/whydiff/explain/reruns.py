"""What runs that nobody observes say of a difference that the observed runs do not show.

Both live programs run plainly once more with the same values in float64 (and in float32, if they hold anything
narrower and float64 alone does not tell): a difference that is rounding shrinks with the precision, another function's
stays. The same slope as the scaling test's (`whydiff.explain.scaling`), without a trace. How far each program lies from
its own float64 run says which of them computes with fewer bits. A side that itself casts does not follow into float64;
then the other one is made as narrow, or keeps its 16-bit values wide, and must give its outputs bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from whydiff.capturing.adapters import Run
from whydiff.explain.case import Case
from whydiff.explain.scale import Difference, Scale, agrees, choices, difference, graver, stays, worst
from whydiff.explain.sides import SIDES, Side
from whydiff.explain.written import followed
from whydiff.locate.rows import compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.tolerance import (
    CANCELLED_SHARE,
    PRECISION_CLASS_RATIO,
    ROUNDING_LEVEL,
    SCALING_FLOOR,
    UNIT_ROUNDOFF,
)
from whydiff.pair.slices import counterparts
from whydiff.records import Intervention, Output, Payload, Slot, Trace, Verdict

NARROW: tuple[Literal["float16", "bfloat16"], ...] = ("float16", "bfloat16")

_Given = Mapping[Slot, Payload]


@dataclass(frozen=True, slots=True)
class Rerun:
    """What plain reruns say of the difference.

    Attributes:
        scale: the difference at two precisions, of the slot that shrinks least; None: a side does not follow.
        errors: how far the reference's and the candidate's own outputs lie from their float64 ones, over the root mean
            square of those (the mean, of the worst output).
        coarse: the side that computes the same function with fewer bits; empty: neither, or it is another function.
        reproduced: at which precision one side gives the other's outputs bit for bit, as a sentence; empty: at none.
        words: only words differ, and in float64 they agree.
        unit: unit roundoff of the outputs' coarsest dtype.
        recorded: the recorded programs were carried out, not the live ones.
        casts: the coarsest dtype to which a program casts by itself when it runs in float64; empty: none, or nobody asked.
    """

    scale: Scale | None
    errors: tuple[float, float]
    coarse: Literal["", "reference", "candidate"] = ""
    reproduced: str = ""
    words: bool = False
    unit: float = UNIT_ROUNDOFF["float32"]
    recorded: bool = False
    casts: str = ""

    @property
    def decides(self) -> bool:
        """Whether a difference that stays is another function's.

        A program that casts by itself gives the same numbers in float64 as before, rounding and all; then the difference
        must be more than rounding makes of an output: over half of its digits (`CANCELLED_SHARE`). Of a record always: what
        was made outside of it is rounded already. A program that casts in between follows in part: what it rounds by itself
        stays, and half of that dtype's digits are asked for.
        """
        assert self.scale is not None
        apart, follow = self.scale.double, min(self.errors) > 0 and not (self.recorded or self.casts)
        unit = UNIT_ROUNDOFF.get(self.casts, self.unit) if min(self.errors) > 0 else self.unit
        return apart.discrete or follow or apart.mean > unit**CANCELLED_SHARE * apart.magnitude

    @property
    def strays(self) -> bool:
        """Whether one side alone is farther from its own float64 run than any precision takes it.

        That is over half of the digits of bfloat16, the coarsest that is computed in. What ran in float64 is then not what
        ran before: memory was changed from outside, which a copy of the model in float64 does not share, or a dtype chose
        another way.
        """
        near, far = sorted(self.errors)
        return far > UNIT_ROUNDOFF["bfloat16"] ** CANCELLED_SHARE and far > PRECISION_CLASS_RATIO * near

    @property
    def verdict(self) -> Verdict:
        """What the difference amounts to."""
        if self.reproduced:
            return Verdict.PRECISION
        if self.coarse:
            return Verdict.INCONCLUSIVE if self.strays else Verdict.PRECISION
        if self.words:
            return Verdict.ROUNDING
        if self.scale is None or self.scale.nature == "between":
            return Verdict.INCONCLUSIVE
        if stays(self.scale):
            return Verdict.SEMANTIC if self.decides else Verdict.INCONCLUSIVE
        return Verdict.INCONCLUSIVE if self.strays else Verdict.ROUNDING

    def __str__(self) -> str:
        if self.words:
            return "run plainly in float64, the words agree"
        if self.reproduced or self.scale is None:
            return self.reproduced or "a program does not follow into float64"
        text = f"{'carried out' if self.recorded else 'run plainly'} in float64: {self.scale}"
        if self.casts:
            text += f"; a program casts to {self.casts} by itself, which float64 does not undo"
        if self.scale.nature not in ("equal", "rounding"):
            return text
        ours, theirs = self.errors
        text += f"; the reference lies {ours:.1e} of its size from float64, the candidate {theirs:.1e}"
        return (
            f"{text}, farther than a precision explains by itself: digits cancel, or another program ran there"
            if self.strays
            else text
        )


def changed_by_looking(case: Case) -> tuple[Side, ...]:
    """Sides that repeat themselves and gave other outputs while they were observed."""
    checks = case.reference.observer, case.candidate.observer
    return tuple(
        side
        for side, check in zip(SIDES, checks, strict=True)
        if check.unchanged is False and check.deterministic is True
    )


def computes_in(trace: Trace) -> tuple[str, ...]:
    """16-bit dtypes in which a recorded program keeps values."""
    seen = {event.spec.dtype for call in trace.calls for event in call.writes}
    return tuple(dtype for dtype in NARROW if dtype in seen)


def rerun(case: Case, only: tuple[Slot, ...] = ()) -> Rerun | None:
    """The scaling test on the live programs themselves, made once; None if a side is a trace or cannot run so.

    Args:
        case: the pair of runs.
        only: outputs that are looked at; none named: all.
    """
    return case.shared(f"reruns {only}", lambda: _rerun(case, only))


def recorded(
    case: Case, outputs: Mapping[Slot, tuple[Payload, Payload]], only: Collection[Slot] | None = None
) -> Rerun | None:
    """The scaling test on what calls wrote and Python handed out, from the record alone; None: that does not tell.

    Args:
        case: the pair of runs.
        outputs: both sides of all that holds numbers; a difference that stays in one of them decides, one that vanishes
            only if all that differ were found again.
        only: outputs that are looked at; None: all.
    """
    alike = {slot: both for slot, both in outputs.items() if both[0].bits.shape == both[1].bits.shape}
    found = case.shared("followed outputs", lambda: followed(case, alike))
    wanted = outputs if only is None else only
    differing = {slot for slot in wanted if compare_payloads(*outputs[slot]).status != "agrees"}
    plain = [{slot: both[n].plain for slot, both in found.items()} for n in (0, 1)]
    exact = [{slot: both[n].exact for slot, both in found.items()} for n in (0, 1)]
    floats, chosen = (
        worst(
            *({slot: how(one[slot], other[slot]) for slot in differing & found.keys()} for one, other in (plain, exact))
        )
        for how in (difference, choices)
    )
    scale = graver(floats, chosen)
    if scale is None or (scale.nature != "stays" and not differing <= found.keys()):
        return None
    errors = _error(exact[0], plain[0]), _error(exact[1], plain[1])
    unit = _unit(plain)
    if agrees(scale):
        return Rerun(scale, errors, _coarse(errors, [_unit([side]) for side in plain]), unit=unit, recorded=True)
    return Rerun(scale, errors, unit=unit, recorded=True)


def _rerun(case: Case, only: tuple[Slot, ...]) -> Rerun | None:
    ours, theirs = case.runs
    if ours is None or theirs is None:
        return None
    runs = (ours, theirs)
    anchors = [_only(run.anchor(), only) for run in runs]
    plain = [_numbers(outputs) for outputs in anchors]
    followed = [_only(run.lifted("float64"), only) for run in runs]
    wide = [_followed(outputs) for outputs in followed]
    scale, casts = _scaled(case, plain, wide), ""
    narrow = next((payload.dtype for side in plain for payload in side.values() if payload.dtype in NARROW), "")
    told = False
    if narrow and scale is not None:
        told, casts = _told(case, runs, wide)
        scale = replace(scale, at=narrow)
    if narrow and not told:
        lifted = (_only(run.lifted("float32"), only) for run in runs)
        single = [{**own, **_followed(outputs)} for own, outputs in zip(plain, lifted, strict=True)]
        scale = _scaled(case, single, wide)
    if scale is None:
        scale = _agreeing([_numbers(outputs) for outputs in followed], plain)
    if not told:
        casts = (casts or _casts(runs)) if scale is not None and scale.nature in ("between", "stays") else ""
    if scale is not None and casts == "float32" and not scale.double.discrete:
        scale = replace(scale, double=replace(scale.double, coarse=UNIT_ROUNDOFF[casts]))
    agreed = agrees(scale)
    if _words(anchors[0]) != _words(anchors[1]):  # and numbers say nothing of words
        apart = _words(followed[0]) != _words(followed[1])
        if None in followed or apart or not (agreed or (scale is None and not any(plain))):
            return None
        if scale is None:
            return Rerun(None, (0.0, 0.0), words=True)
    errors = _error(wide[0], plain[0]), _error(wide[1], plain[1])
    if agreed:
        return Rerun(scale, errors, _coarse(errors, [_unit([side]) for side in plain]), casts=casts)
    reproduced = "" if only else _reproduced(case, runs, plain)
    found = Rerun(scale, errors, reproduced=reproduced, unit=_unit(plain), casts=casts)
    return found if found.scale is not None or found.reproduced else None


def _scaled(case: Case, single: Sequence[_Given], wide: Sequence[_Given]) -> Scale | None:
    return graver(
        worst(_apart(case, single, difference), _apart(case, wide, difference)),
        worst(_apart(case, single, choices), _apart(case, wide, choices)),
    )


def _told(case: Case, runs: tuple[Run, Run], wide: Sequence[_Given]) -> tuple[bool, str]:
    """Whether float64 alone says that a difference is rounding, and to what a program casts by itself, if that was asked.

    So it is where no output is farther apart there than rounding in float64 makes it, or than rounding in float32 in
    programs that cast to it: whatever a float32 run gave, the difference shrank.
    """
    apart = [*_apart(case, wide, difference).values(), *_apart(case, wide, choices).values()]
    if _shrunk(apart, 0.0):
        return True, ""
    casts = _casts(runs) if _shrunk(apart, UNIT_ROUNDOFF["float32"]) else ""
    return casts == "float32", casts


def _shrunk(apart: Sequence[Difference | None], unit: float) -> bool:
    return all(
        not one.special
        and one.mean <= max(SCALING_FLOOR, 0.0 if one.discrete else ROUNDING_LEVEL * unit) * one.magnitude
        for one in apart
        if one is not None
    )


def _casts(runs: tuple[Run, Run]) -> str:
    """The coarsest dtype to which one of two programs casts by itself when it runs in float64."""
    return max((run.casts_to() for run in runs), key=lambda name: UNIT_ROUNDOFF.get(name, 0.0))


def _agreeing(wide: Sequence[_Given], plain: Sequence[_Given]) -> Scale | None:
    """The share of elements that differ, of outputs that both programs round themselves and that agree in float64.

    Where they differ there as well nothing is said: a program that rounds by itself need not follow.
    """
    ours, theirs = wide
    if not ours or ours.keys() != plain[0].keys() or not _same(ours, theirs) or _same(*plain):
        return None
    shares = [float((plain[0][slot].bits != plain[1][slot].bits).mean()) for slot in ours if slot in plain[1]]
    return Scale(Difference(max(shares, default=0.0), 1.0, discrete=True), Difference(0.0, 1.0, discrete=True))


def _only(outputs: Sequence[Output] | None, slots: tuple[Slot, ...]) -> Sequence[Output] | None:
    return outputs if outputs is None or not slots else [one for one in outputs if one.slot in slots]


def _words(outputs: Sequence[Output] | None) -> dict[Slot, str]:
    return {one.slot: one.text for one in outputs or () if one.kind in ("text", "empty")}


def _followed(outputs: Sequence[Output] | None) -> _Given:
    """What a program gives at another precision, without what it casts itself."""
    return {slot: payload for slot, payload in _numbers(outputs).items() if payload.dtype not in NARROW}


def _reproduced(case: Case, runs: tuple[Run, Run], plain: Sequence[_Given]) -> str:
    """At which other precision one program gives the other's outputs bit for bit."""
    wide = (Intervention("keep-wide", "the program"),)
    for number, side in enumerate(SIDES):
        other, wanted = SIDES[1 - number], plain[1 - number]
        narrow = computes_in(case.trace(side))
        for dtype in NARROW:
            if dtype not in narrow and _same(_numbers(runs[number].lifted(dtype)), wanted):
                return f"the {other} gives bit for bit what the {side} gives when it runs in {dtype}"
        recorded = side not in changed_by_looking(case)  # else keeping its recorded ops wide says nothing of it
        if recorded and narrow and case.experiments.try_out(wide, on=side).equal:
            return (
                f"the {other} gives bit for bit what the {side} gives when its {narrow[0]} values are kept in float32"
            )
    return ""


def _same(given: _Given, wanted: _Given) -> bool:
    return given.keys() == wanted.keys() and all(
        compare_payloads(given[slot], wanted[slot]).status == "agrees" for slot in given
    )


def _numbers(outputs: Sequence[Output] | None) -> dict[Slot, Payload]:
    return {one.slot: one.payload for one in outputs or () if one.kind == "numbers" and one.payload is not None}


def _apart(
    case: Case, sides: Sequence[_Given], how: Callable[[Payload, Payload], Difference | None]
) -> dict[Slot, Difference | None]:
    local = case.localization
    return {
        slot: how(*(compared(local.rows, slot, one) for one in counterparts(ours, sides[1][slot], local.axes)))
        for slot, ours in sides[0].items()
        if slot in sides[1]
    }


def _error(exact: _Given, plain: _Given) -> float:
    """The largest mean error of an output over its root mean square."""
    apart = [difference(exact[slot], payload) for slot, payload in plain.items() if slot in exact]
    return max((one.mean / one.magnitude for one in apart if one is not None and one.magnitude), default=0.0)


def _unit(plain: Sequence[_Given]) -> float:
    return max((UNIT_ROUNDOFF.get(payload.dtype, 0.0) for side in plain for payload in side.values()), default=0.0)


def _coarse(errors: tuple[float, float], units: Sequence[float]) -> Literal["", "reference", "candidate"]:
    """The side of another precision class: its error is more than rounding its outputs' dtype explains.

    Or it returns a narrower dtype than the other side.
    """
    if units[0] != units[1]:
        return "reference" if units[0] > units[1] else "candidate"
    if max(errors) <= max(PRECISION_CLASS_RATIO * min(errors), ROUNDING_LEVEL * max(units)):
        return ""
    return "reference" if errors[0] > errors[1] else "candidate"
