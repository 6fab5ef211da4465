"""Steps of optimizers that both runs take, and what they begin with: state and hyperparameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._state import remember
from whydiff.records import Call, Intervention, Trace


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an optimizer that both runs take.

    Attributes:
        numbers: how many steps of optimizers either run takes before.
        calls: the looks at the optimizer's state, see `whydiff.records.Call.is_update`.
    """

    numbers: tuple[int, int]
    calls: tuple[Call, Call]

    @property
    def settings(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Hyperparameters of both sides by ``"<group>.<name>"``."""
        ours, theirs = (call.arguments[1]["settings"] for call in self.calls)
        return ours, theirs

    @property
    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What both sides' state is by ``"<position of the parameter>.<name>"``: fingerprints and plain values."""
        ours, theirs = (
            {event.site.slot: (event.spec.dtype, event.spec.shape, event.fingerprint) for event in call.reads}
            | call.arguments[1]["state"]
            for call in self.calls
        )
        return ours, theirs


def steps(case: Case) -> tuple[Step, ...]:
    """Steps of optimizers that both runs take, in order: those that correspond as the runs' steps do."""
    return remember(case, "optimizer steps", lambda: tuple(_steps(case)))


def _steps(case: Case) -> Iterator[Step]:
    ours, theirs = _by_step(case.reference, 0), _by_step(case.candidate, case.alignment.ahead)
    for key, (number, call) in ours.items():
        if key in theirs:
            other, counterpart = theirs[key]
            yield Step((number, other), (call, counterpart))


def _by_step(trace: Trace, ahead: int) -> dict[tuple[int, int], tuple[int, Call]]:
    """(step, how many in it before) → (how many before in the run, call)."""
    found: dict[tuple[int, int], tuple[int, Call]] = {}
    within: dict[int, int] = {}
    for number, call in enumerate(call for call in trace.calls if call.is_update):
        step = call.site.step + ahead
        found[step, within.get(step, 0)] = number, call
        within[step] = within.get(step, 0) + 1
    return found


def differing_state(case: Case) -> list[str]:
    """Names of the state with which the first common step begins otherwise: ``"<position>.<name>"``."""
    first = next(iter(steps(case)), None)
    if first is None:
        return []
    ours, theirs = first.state
    return [slot for slot in dict.fromkeys((*ours, *theirs)) if slot not in ours or ours[slot] != theirs.get(slot)]


def differing_settings(case: Case) -> dict[str, list[tuple[Step, Any, Any]]]:
    """``"<group>.<name>"`` → the common steps at which it differs, with both values."""
    found: dict[str, list[tuple[Step, Any, Any]]] = {}
    for step in steps(case):
        ours, theirs = step.settings
        for target in ours.keys() & theirs.keys():
            if ours[target] != theirs[target]:
                found.setdefault(target, []).append((step, ours[target], theirs[target]))
    return dict(sorted(found.items()))


def state_restored(case: Case) -> tuple[Intervention, ...]:
    """The candidate's first common step begins with the reference's state; nothing if it does anyway."""
    if not differing_state(case):
        return ()
    ours, theirs = steps(case)[0].numbers
    return (Intervention("restore-optimizer", str(theirs), str(ours)),)


def settings_given(target: str, found: list[tuple[Step, Any, Any]], side: int) -> Intervention:
    """A side's steps are taken with the other side's hyperparameter."""
    values = tuple((step.numbers[side], values[1 - side]) for step, *values in found)
    return Intervention("set-hyperparameter", target, values)


def put_back(case: Case) -> tuple[Intervention, ...]:
    """All that the candidate's optimizers begin with otherwise is the reference's."""
    given = (settings_given(target, found, 1) for target, found in differing_settings(case).items())
    return (*state_restored(case), *given)


__all__ = ["Step", "differing_settings", "differing_state", "put_back", "settings_given", "state_restored", "steps"]
