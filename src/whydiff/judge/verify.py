"""Proof: every cause is taken away from the candidate and put into the reference, and both must do as it says.

With several causes each one's own effect on the outputs is measured twice: *one in* (only this one acts) and *leave
one out* (all but this one act). Effects are not additive, so no shares are given. What the outcomes amount to stands in
`whydiff.judge.proof`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from whydiff.capturing.adapters import Progress
from whydiff.errors import Interrupted, WhydiffError, guarded
from whydiff.explain.activations import COMPUTE
from whydiff.explain.case import Case
from whydiff.explain.causes import by_code
from whydiff.explain.experiments import Outcome
from whydiff.explain.interventions import TRANSPLANTS
from whydiff.explain.restoring import by_values
from whydiff.explain.sides import Side
from whydiff.judge.claims import Claims
from whydiff.judge.proof import Way, concluded
from whydiff.numbers.tolerance import SAME_FUNCTION, SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.records import Cause, Direction, Intervention, Measurement, Verdict

_ON: dict[Direction, Side] = {"take_away": "candidate", "put_in": "reference"}
_NOTHING = Outcome(False, None, 0, (), "replay", "not tried")


@dataclass(frozen=True, slots=True)
class _Hypothesis:
    """A cause with what takes it away and what puts it in (empty: it is not known how), each once."""

    cause: Cause
    away: tuple[Intervention, ...]
    put: tuple[Intervention, ...]

    def own(self, direction: Direction) -> tuple[Intervention, ...]:
        return self.away if direction == "take_away" else self.put


def verify(case: Case, causes: Sequence[Cause], progress: Progress | None = None) -> tuple[Cause, ...]:
    """Run every cause's experiments.

    Returns:
        The causes with status, experiments, effect and the inert flag set, in the given order.

    Raises:
        whydiff.errors.Interrupted: Ctrl-C; ``found`` are the causes as far as they were tried.
    """
    done = list(causes)
    try:
        _verify(case, done, progress)
    except KeyboardInterrupt as stop:
        raise Interrupted(tuple(done)) from stop
    return tuple(done)


def _verify(case: Case, done: list[Cause], progress: Progress | None) -> None:
    """Put every cause's outcome in its place."""
    asked: dict[int, _Hypothesis] = {}
    for number, cause in enumerate(tuple(done)):
        with guarded(f"the experiment of {cause.code} at {cause.site}") as guard:
            one = _hypothesis(case, cause)
            if not one.away or not case.experiments.supports(one.away):
                done[number] = _untested(cause, one)
                continue
            why = _failed(case, one.away, "candidate", cause)
            if why and (held := _in_the_held_dtype(case, one)) is not None:
                one, why = held, ""
            if why:
                done[number] = replace(cause, reason=f"the experiment failed: {why}")
            else:
                asked[number] = one
        if guard.error:
            done[number] = replace(cause, reason=f"the experiment failed: {guard.error}")
    asked = _drawing_alike(case, asked)
    together = {direction: _together(case, list(asked.values()), direction) for direction in _ON}
    for count, (number, one) in enumerate(asked.items()):
        if progress is not None:
            progress("verify causes", count, len(asked))
        with guarded(f"the experiment of {one.cause.code} at {one.cause.site}") as guard:
            done[number] = _verified(case, one, together)
        if guard.error:
            done[number] = replace(one.cause, reason=f"the experiment failed: {guard.error}")
    if progress is not None:
        progress("verify causes", len(asked), len(asked))


def _hypothesis(case: Case, cause: Cause) -> _Hypothesis:
    rule = by_code(cause.code)
    away = _distinct(rule.take_away(case, cause))
    put = _distinct(rule.put_in(case, cause)) if away else ()
    return _Hypothesis(cause, away, put)


def _in_the_held_dtype(case: Case, one: _Hypothesis) -> _Hypothesis | None:
    """Other values that a side cannot be given in the other side's dtype, in its own; None: that fails too, or is no other.

    A cast that were undone so would be left as it is.
    """
    away = by_values(case.traces, one.away)
    if one.cause.verdict is not Verdict.SEMANTIC or away == one.away or not case.experiments.supports(away):
        return None
    cause = replace(one.cause, interventions=away, put_in=())
    return None if _failed(case, away, "candidate", cause) else _hypothesis(case, cause)


def _drawing_alike(case: Case, asked: dict[int, _Hypothesis]) -> dict[int, _Hypothesis]:
    """The same, and draws that they switch on begin as the other side's do: where all that was found is not enough.

    Another seed that the program sets for itself is a cause like any; a state that is handed over would hide it.
    """
    alike = case.experiments.drawing_alike
    handed = {n: replace(one, away=alike(one.away), put=alike(one.put, on="reference")) for n, one in asked.items()}
    if handed == asked:
        return asked
    joined = _together(case, list(asked.values()), "take_away")
    every = _merged(joined, "take_away")
    if len(joined) > 1 and not _failed(case, every, "candidate", joined[0].cause):
        return asked if case.experiments.try_out(every).equal else handed
    return handed


def _distinct(changes: Sequence[Intervention]) -> tuple[Intervention, ...]:
    """Each once; what an intervention holds may be a list, which has no hash."""
    kept: list[Intervention] = []
    there: dict[tuple[str, str], list[Intervention]] = {}
    for one in changes:
        known = there.setdefault((one.name, one.target), [])
        if one not in known:
            known.append(one)
            kept.append(one)
    return tuple(kept)


def _together(case: Case, found: Sequence[_Hypothesis], direction: Direction) -> tuple[_Hypothesis, ...]:
    """Causes that can be changed in one experiment; one that cannot join them is tried alone."""
    joined: list[_Hypothesis] = []
    for one in found:
        with guarded(f"the experiment of {one.cause.code} at {one.cause.site}"):
            own = one.own(direction)
            if own and case.experiments.supports(_merged([*joined, one], direction), on=_ON[direction]):
                joined.append(one)
    return tuple(joined)


def _merged(found: Sequence[_Hypothesis], direction: Direction) -> tuple[Intervention, ...]:
    return _distinct([item for one in found for item in one.own(direction)])


def _failed(case: Case, interventions: Sequence[Intervention], on: Side, cause: Cause) -> str:
    """Why an experiment cannot be carried out; empty if it can. One that fails must not spoil the others'."""
    with guarded(f"the experiment of {cause.code} at {cause.site}") as guard:
        try:
            return case.experiments.try_out(interventions, on=on).failed
        except WhydiffError as error:
            return f"{error.what} {error.actual}".strip()
    return guard.error


def _untested(cause: Cause, one: _Hypothesis) -> Cause:
    if cause.reason or cause.status != "inconclusive":
        return cause
    reason = "no intervention is known for it"
    if one.away:
        reason = "its intervention needs a live run: " + ", ".join(map(str, one.away))
    return replace(cause, reason=reason)


def _verified(case: Case, one: _Hypothesis, together: dict[Direction, tuple[_Hypothesis, ...]]) -> Cause:
    cause = one.cause
    try:
        away = _way(case, one, together["take_away"], "take_away")
    except WhydiffError as error:
        return replace(cause, reason=f"the experiment failed: {error.what} {error.actual}".strip())
    if not away.tried:
        return replace(cause, reason=f"the experiment failed: {away.why_not}")
    broken = "" if away.whole else _other_function(case, one)
    if broken:
        experiment = replace(away.experiment(), prediction="the programs still agree in float64", status="refuted")
        return replace(cause, status="refuted", reason=broken, experiments=(replace(experiment, outcome=broken),))
    measured = (("one_in", away.others.mean_abs), ("leave_one_out", away.alone.mean_abs))
    per = "choices" if away.alone.choices else "output elements"
    effect = tuple(Measurement(name, apart, per) for name, apart in measured if apart is not None)
    return replace(concluded(cause, away, _put(case, one, away, together["put_in"])), effect=effect)


def _put(case: Case, one: _Hypothesis, away: Way, together: Sequence[_Hypothesis]) -> Way:
    """The other direction, where it can decide anything."""
    why_not = ""
    if not away.works or any(item.name in TRANSPLANTS for item in one.away):
        why_not = "taking it away decides"
    elif not one.put:
        why_not = "it is not known how"
    elif not case.experiments.supports(one.put, on="reference"):
        why_not = "it needs a live reference: " + ", ".join(map(str, one.put))
    else:
        why_not = _failed(case, one.put, "reference", one.cause)
    if why_not:
        return Way("put_in", (), _NOTHING, _NOTHING, _NOTHING, _NOTHING, why_not=why_not)
    try:
        return _way(case, one, together, "put_in")
    except WhydiffError as error:
        failed = f"{error.what} {error.actual}".strip()
        return Way("put_in", (), _NOTHING, _NOTHING, _NOTHING, _NOTHING, why_not=failed)


def _way(case: Case, one: _Hypothesis, together: Sequence[_Hypothesis], direction: Direction) -> Way:
    on, own = _ON[direction], one.own(direction)
    everything = _merged(together if one in together else [one], direction)
    others = tuple(item for item in everything if item not in own)
    tried = case.experiments.try_out
    before, alone, every, rest = (tried(items, on=on) for items in ((), own, everything, others))
    failed = before.failed or alone.failed or every.failed or rest.failed
    hidden = any(item.name in TRANSPLANTS for item in others)
    noise = one.cause.verdict is Verdict.ROUNDING
    way = Way(direction, own, before, alone, every, rest, why_not=failed, hidden=hidden, noise=noise)
    if failed or way.whole or way.idle:
        return way
    way = replace(way, rounding=_rounding_left(case, one, direction))
    if not way.works and others:
        way = replace(way, together=_rounding_together(case, one, (everything, others), direction))
    if way.works:
        return way
    left = case.experiments.origins_after(own, on=on)
    claims = Claims(one.away)
    mine = frozenset(str(o.site) for o in case.localization.origins if claims.holds(o, [o.candidate_site]))
    way = replace(way, mine=mine, left=None if left is None else frozenset(left))
    return replace(way, unfelt=way.partly and _unfelt(case, one, direction))


def _unfelt(case: Case, one: _Hypothesis, direction: Direction) -> bool:
    """Whether changing what would be another function moves the outputs by no more than rounding."""
    if one.cause.verdict is not Verdict.SEMANTIC:
        return False
    moved = case.experiments.moves_in_float64(one.own(direction), on=_ON[direction])
    return moved is not None and moved <= SCALING_FLOOR


def _rounding_left(case: Case, one: _Hypothesis, direction: Direction) -> str:
    """The sentence that only rounding is left when a cause is changed; empty if more is, or if it cannot be told."""
    if one.cause.verdict is not Verdict.SEMANTIC:
        return ""
    apart = case.experiments.apart_in_float64
    before, after = apart(()), apart(one.own(direction), on=_ON[direction])
    if before is None or after is None or not after <= _level(one.own(direction)) < before:
        return ""
    return f"in float64 the outputs lie {after:.1e} of their size apart, and {before:.1e} before"


def _rounding_together(
    case: Case, one: _Hypothesis, changed: tuple[Sequence[Intervention], Sequence[Intervention]], direction: Direction
) -> str:
    """The sentence that only rounding is left when all causes are changed, and more when all but this one are."""
    if one.cause.verdict is not Verdict.SEMANTIC:
        return ""
    every, others = (case.experiments.apart_in_float64(items, on=_ON[direction]) for items in changed)
    if every is None or others is None or not every <= _level(changed[0]) < others:
        return ""
    return f"in float64 the outputs lie {every:.1e} of their size apart, and {others:.1e} when it alone stays"


def _level(changes: Sequence[Intervention]) -> float:
    """What is rounding in float64: more where a formula is computed anew, whose constants a program holds in float32."""
    computed = any(item.name == COMPUTE for item in changes)
    return SAME_FUNCTION * UNIT_ROUNDOFF["float32"] if computed else SCALING_FLOOR


def _other_function(case: Case, one: _Hypothesis) -> str:
    """That removing a cause of rounding makes another function of a program that agreed; empty if it does not."""
    if one.cause.verdict is not Verdict.ROUNDING:
        return ""
    before, after = case.experiments.apart_in_float64(()), case.experiments.apart_in_float64(one.away)
    if before is None or after is None or not before <= SCALING_FLOOR < after:
        return ""
    return f"without it the outputs lie {after:.1e} of their size apart in float64, and {before:.1e} before"
