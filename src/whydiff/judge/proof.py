"""What the experiments of one cause amount to: an ordered list of small rules over measured outcomes.

A cause is *taken away* from the candidate, which must then give the reference's outputs, and *put into* the reference,
which must then give the candidate's. Several causes are taken away and put in together, and each one must matter. A
transplant (`whydiff.explain.interventions.TRANSPLANTS`) makes any difference vanish: it shows where, not why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from whydiff.explain.draws import DRAW_FROM, begun_alike
from whydiff.explain.experiments import Outcome
from whydiff.explain.interventions import TRANSPLANTS
from whydiff.explain.restoring import VALUES
from whydiff.numbers.tolerance import CANCELLED_SHARE, PRECISION_CLASS_RATIO, UNIT_ROUNDOFF
from whydiff.records import Cause, Direction, Experiment, Intervention, Left, Remedy, Status

AGREE = {"take_away": "the reference's outputs", "put_in": "the candidate's outputs"}


@dataclass(frozen=True, slots=True)
class Way:
    """One direction of a cause's proof.

    Attributes:
        direction: which.
        interventions: the cause's own; empty: it could not be tried, see ``why_not``.
        before: the outputs as they are.
        alone: under the cause's own interventions.
        every: under all causes' interventions together; ``alone`` if there are no others.
        others: under all others' interventions; ``before`` if there are none.
        rounding: what only rounding is left of, as a sentence; empty: more is left, or it cannot be told.
        mine: sites of the origins that the cause claims.
        left: sites of the origins that remain under its interventions; None: not asked, or it cannot be told.
        why_not: why it could not be tried.
        together: what only rounding is left of when all causes are changed, and more when this one is not; empty: else.
        hidden: whether the others put parts of the other run in, behind which a cause does not show.
        unfelt: whether the outputs, lifted to float64, move by no more than rounding under its interventions.
        noise: whether the cause claims no more than rounding, whose size in one run is chance.
    """

    direction: Direction
    interventions: tuple[Intervention, ...]
    before: Outcome
    alone: Outcome
    every: Outcome
    others: Outcome
    rounding: str = ""
    mine: frozenset[str] = frozenset()
    left: frozenset[str] | None = None
    why_not: str = ""
    together: str = ""
    hidden: bool = False
    unfelt: bool = False
    noise: bool = False

    @property
    def tried(self) -> bool:
        """Whether it was carried out."""
        return not self.why_not

    @property
    def begun(self) -> bool:
        """Whether draws were made to begin as the other side's do, beside what the cause says."""
        return any(item.name == DRAW_FROM for item in self.interventions)

    @property
    def whole(self) -> bool:
        """Whether nothing but rounding is left of the difference when only this cause is changed."""
        return self.alone.equal or bool(self.rounding)

    @property
    def jointly(self) -> bool:
        """Whether nothing (but rounding) is left when all causes are changed, and something is when this one is not.

        Behind parts of the other run, one that alone leads farther away may only repair what they were put beside.
        """
        if self.astray:
            return False
        return (self.every.equal and not self.others.equal) or bool(self.together)

    @property
    def vanish(self) -> bool:
        """Whether all the origins that the cause claims are gone."""
        return bool(self.mine) and self.left is not None and not self.mine & self.left

    @property
    def partly(self) -> bool:
        """Whether all the origins that the cause claims are gone, which moves the outputs, and no further apart."""
        if self.unfelt or not self.vanish:
            return False
        return not self.larger

    @property
    def larger(self) -> bool:
        """Whether the outputs lie further apart; of roundings: by more than what they vary by."""
        before, after = self.before.mean_abs or 0.0, self.alone.mean_abs or 0.0
        return bool(self.alone.comparisons) and after > before * (PRECISION_CLASS_RATIO if self.noise else 1.0)

    @property
    def astray(self) -> bool:
        """Whether parts of the other run stand in the others' places, and alone it leads much farther away."""
        before, after = self.before.mean_abs or 0.0, self.alone.mean_abs or 0.0
        return self.hidden and bool(self.alone.comparisons) and after > before * PRECISION_CLASS_RATIO

    @property
    def nearly(self) -> bool:
        """Whether less is left of the difference than half of the digits of float32 tell apart."""
        before, after = self.before.mean_abs, self.alone.mean_abs
        if not before or not after:
            return False
        return after <= before * math.pow(UNIT_ROUNDOFF["float32"], CANCELLED_SHARE)

    @property
    def works(self) -> bool:
        """Whether the difference falls as predicted."""
        return self.tried and (self.whole or self.jointly or self.partly)

    @property
    def idle(self) -> bool:
        """Whether it changes no output, alone or with the others."""
        compared = self.tried and bool(self.before.comparisons) and not self.alone.stopped
        return compared and same(self.others, self.every) and same(self.alone, self.before)

    def experiment(self) -> Experiment:
        """What was done and what came of it."""
        status: Status = "confirmed" if self.works else "refuted" if self.idle else "inconclusive"
        prediction, after, outcome = f"gives {AGREE[self.direction]} bit for bit", self.alone, _difference(self)
        left: Left = "nothing" if self.alone.equal else ""
        if self.whole and not self.alone.equal:
            left = "rounding"
            prediction, outcome = "only rounding is left", f"{self.rounding} ({_change(self, self.alone)})"
        elif not self.whole and self.jointly:
            left = "others" if self.every.equal else "others_rounding"
            after, outcome = self.every, f"with the other causes, {self.together or _bits(self.every)}"
        elif not self.whole and self.left is not None:
            left = ("elsewhere" if self.left else "nowhere") if self.partly else ""
            prediction = "its origins vanish"
            outcome = f"{len(self.mine - self.left)} of {len(self.mine)} places vanish; {_difference(self)}"
        return Experiment(
            interventions=self.interventions,
            prediction=prediction,
            outcome=outcome,
            status=status,
            method=self.alone.method,
            before=self.before.mean_abs,
            after=after.mean_abs,
            direction=self.direction,
            left=left,
            elements=after.elements,
            choices=after.choices,
        )


def _beginning_alike(cause: Cause, away: Way, put: Way) -> Cause:
    """A remedy whose experiment also made draws begin as the other side's do says so: alone it leaves a difference."""
    remedy = cause.remedy
    if remedy is None or not remedy.undoes or not _way(remedy, away, put).begun:
        return cause
    return replace(cause, remedy=replace(begun_alike(remedy), carried_out=False))


def _way(remedy: Remedy, away: Way, put: Way) -> Way:
    """The direction that carries a remedy out."""
    return {"take_away": away, "put_in": put}[remedy.direction]


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are alike in every measurement."""
    return one.equal == other.equal and one.mean_abs == other.mean_abs and one.comparisons == other.comparisons


def concluded(cause: Cause, away: Way, put: Way) -> Cause:
    """A cause with what its experiments say.

    Args:
        cause: a hypothesis.
        away: it was taken away from the candidate.
        put: it was put into the reference, as far as that was possible.
    """
    experiments = tuple(way.experiment() for way in (away, put) if way.tried)
    cause = replace(cause, experiments=(*cause.experiments, *experiments))
    for rule in _RULES:
        found = rule(cause, away, put)
        if found is not None:
            return _beginning_alike(found, away, put)
    raise AssertionError("the last rule answers always")


Rule = Callable[[Cause, Way, Way], Cause | None]


def _nothing_before(cause: Cause, away: Way, put: Way) -> Cause | None:
    """Outputs that agree prove nothing."""
    if away.before.equal and away.before.comparisons:
        return replace(cause, reason="the outputs agree as they are, so nothing can be proven")
    return None


def _inert(cause: Cause, away: Way, put: Way) -> Cause | None:
    """It differs and changes nothing."""
    if away.before.comparisons and away.idle and not (put.tried and not put.idle):
        return replace(cause, inert=True, status="refuted", reason="it differs but changes nothing on this input")
    return None


def _needless(cause: Cause, away: Way, put: Way) -> Cause | None:
    """The others explain it all."""
    if not away.whole and away.every.equal and away.others.equal:
        if away.hidden:
            return replace(
                cause, reason="parts of the reference that were put in for other causes may hide what it does"
            )
        return replace(cause, status="refuted", reason="the outputs agree without removing it")
    return None


def _fails(cause: Cause, away: Way, put: Way) -> Cause | None:
    """Taking it away does not help."""
    if away.works:
        return None
    if any(item.name == VALUES for item in away.interventions):
        why = "in the dtype that the candidate holds, what is left is its cast too, without which it could not be tried"
        return replace(cause, reason=f"{why} ({_mean(away)})")
    if away.astray and away.every.equal:
        why = "alone it leads farther away; with parts of the reference in other causes' places the outputs agree"
        return replace(cause, reason=f"{why}, which it may only repair")
    if away.larger and any(item.name in TRANSPLANTS for item in away.interventions):
        why = f"the reference's own part put there makes the difference larger ({_mean(away)})"
        return replace(cause, reason=f"{why}: what else differs acts on it")
    if away.larger:
        return replace(cause, status="refuted", reason=f"taking it away makes the difference larger ({_mean(away)})")
    if away.nearly:
        why = "taking it away leaves so little of the difference that it may be rounding, which this experiment cannot tell"
        return replace(cause, reason=f"{why} ({_mean(away)})")
    if away.left is not None and away.mine and away.mine <= away.left:
        return replace(cause, status="refuted", reason="its origins remain when it is taken away")
    if away.unfelt and away.vanish:
        why = "its origins vanish when it is taken away, but in float64 the outputs do not move: it is not shown to matter"
        return replace(cause, reason=why)
    if not away.mine:
        why = "taking it away does not make the outputs equal, and its origins cannot be told from the others"
        return replace(cause, reason=_stopped(away) or why)
    return replace(cause, reason="taking it away removes a part of its difference only")


def _stopped(way: Way) -> str:
    """That the experiment says little, since the program could not be executed to its end."""
    site = way.alone.stopped
    return f"{site} cannot be executed again, so what comes of it is as recorded and tells nothing" if site else ""


def _transplant(cause: Cause, away: Way, put: Way) -> Cause | None:
    """A part of one run in the other's place shows where."""
    if cause.after and away.jointly:
        why = "it may only follow from another cause: the number given there comes after one that the program read out"
        return replace(cause, reason=why)
    if any(item.name in TRANSPLANTS for item in away.interventions):
        why = "putting the reference's own part there removes the difference: that shows where it starts, not why"
        return replace(cause, status="located", reason=why, remedy=_another(cause.remedy))
    return None


def _another(remedy: Remedy | None) -> Remedy | None:
    """A remedy of which no experiment tells: what was carried over is no change that a user can make."""
    return None if remedy is None else replace(remedy, undoes="")


def _one_way(cause: Cause, away: Way, put: Way) -> Cause | None:
    """It was only taken away."""
    if not put.tried:
        why = f"taking it away removes the difference; putting it into the reference was not tried: {put.why_not}"
        return replace(cause, status="located", reason=why)
    if not put.works:
        why = "taking it away removes the difference, but putting it into the reference does not make it"
        return replace(cause, status="inconclusive", reason=f"{why} ({_mean(put)})")
    return None


def _both_ways(cause: Cause, away: Way, put: Way) -> Cause | None:
    remedy = cause.remedy
    if remedy is not None and remedy.undoes and _way(remedy, away, put).whole:
        remedy = replace(remedy, carried_out=True)
    return replace(cause, status="confirmed", reason="", remedy=remedy)


_RULES: tuple[Rule, ...] = (_inert, _nothing_before, _needless, _fails, _transplant, _one_way, _both_ways)
"""Asked in this order; the first that answers decides."""


def _bits(outcome: Outcome) -> str:
    return f"bit-equal: 0 of {outcome.elements} output elements differ"


def _difference(way: Way) -> str:
    if not way.alone.comparisons:
        return "no outputs were recorded"
    return _bits(way.alone) if way.alone.equal else f"outputs differ ({_change(way, way.alone)})"


def _change(way: Way, after: Outcome) -> str:
    before = "unknown" if way.before.mean_abs is None else f"{way.before.mean_abs:.3e}"
    now = "unknown" if after.mean_abs is None else f"{after.mean_abs:.3e}"
    what = "share of elements that differ" if after.choices else "mean absolute difference"
    return f"{what} {before} before, {now} after"


def _mean(way: Way) -> str:
    return _change(way, way.alone)
