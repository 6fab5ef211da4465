"""Steps of optimizers that both runs take, and what they begin with: state and hyperparameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.explain.arguments import as_value, given_otherwise
from whydiff.explain.case import Case
from whydiff.pair.align.steps import numbering
from whydiff.records import Call, Intervention, Origin, Trace


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

    @property
    def counts_differ(self) -> bool:
        """Whether it begins with another plain number of its own (how many steps were taken)."""
        ours, theirs = (call.arguments[1]["state"] for call in self.calls)
        return bool(ours != theirs)

    @property
    def differing(self) -> list[str]:
        """Names of the state with which it begins otherwise: ``"<position>.<name>"``."""
        ours, theirs = self.state
        return [slot for slot in dict.fromkeys((*ours, *theirs)) if slot not in ours or ours[slot] != theirs.get(slot)]


def steps(case: Case) -> tuple[Step, ...]:
    """Steps of optimizers that both runs take, in order: those that correspond as the runs' steps do."""
    return case.shared("optimizer steps", lambda: tuple(_steps(case)))


def _steps(case: Case) -> Iterator[Step]:
    _, *numbers = numbering(case.reference, case.candidate)
    ours, theirs = map(_by_step, case.traces, numbers)
    for key, (number, call) in ours.items():
        if key in theirs:
            other, counterpart = theirs[key]
            yield Step((number, other), (call, counterpart))


def _by_step(trace: Trace, numbers: Sequence[int]) -> dict[tuple[int, int], tuple[int, Call]]:
    """(step as the alignment counts, how many in it before) → (how many before in the run, call)."""
    found: dict[tuple[int, int], tuple[int, Call]] = {}
    within: dict[int, int] = {}
    updates = [pair for pair in zip(trace.calls, numbers, strict=True) if pair[0].is_update]
    for number, (call, step) in enumerate(updates):
        found[step, within.get(step, 0)] = number, call
        within[step] = within.get(step, 0) + 1
    return found


def lost_at(case: Case) -> tuple[Step, ...]:
    """Common steps that begin with other state although nothing differed when the optimizer had stepped before.

    The first step of an optimizer that both runs take counts if its state differs at all. What differs later because
    other gradients came in is a consequence, and left out.
    """
    return case.shared("optimizers that lost state", lambda: tuple(_lost(case)))


def _lost(case: Case) -> Iterator[Step]:
    before: dict[tuple[str, tuple[str, ...]], Step] = {}
    for step in steps(case):
        ours = step.calls[0]
        key = ours.site.scope, tuple(ours.arguments[1]["parameters"])
        if step.differing and (key not in before or _left_alike(case, before[key])):
            yield step
        before[key] = step


def _left_alike(case: Case, step: Step) -> bool:
    """Whether all that a step wrote is the same on both sides."""
    runs = tuple(_update(trace, call) for trace, call in zip(case.traces, step.calls, strict=True))
    written = [[[event.fingerprint for event in call.writes] for call in calls] for calls in runs]
    return written[0] == written[1]


def _update(trace: Trace, look: Call) -> list[Call]:
    """What a step of an optimizer carries out: the ops up to the next one's, or to what is no update."""
    found = []
    for call in trace.calls[look.index + 1 :]:
        if call.site.phase != "update" or call.is_update:
            break
        if call.kind == "compute":
            found.append(call)
    return found


def begins_otherwise(case: Case, origin: Origin) -> bool:
    """Whether an origin lies in a step that begins with other state or hyperparameters: then its ops may be others too."""
    inside = case.shared("updates that begin otherwise", lambda: _otherwise(case))
    return any(index in calls for index, calls in zip(origin.calls, inside, strict=True))


def _otherwise(case: Case) -> tuple[frozenset[int], ...]:
    found = [step for step in steps(case) if step in lost_at(case) or step.settings[0] != step.settings[1]]
    return tuple(
        frozenset(call.index for step in found for call in _update(trace, step.calls[side]))
        for side, trace in enumerate(case.traces)
    )


def differing_settings(case: Case) -> dict[str, list[tuple[Step, Any, Any]]]:
    """``"<group>.<name>"`` → the common steps at which it differs, with both values."""
    found: dict[str, list[tuple[Step, Any, Any]]] = {}
    for step in steps(case):
        ours, theirs = step.settings
        for target in ours.keys() & theirs.keys():
            if ours[target] != theirs[target]:
                found.setdefault(target, []).append((step, ours[target], theirs[target]))
    return dict(sorted(found.items()))


def state_restored(found: Sequence[Step]) -> tuple[Intervention, ...]:
    """The candidate's steps begin with the state that the reference's begin with."""
    return tuple(
        Intervention("restore-optimizer", str(theirs), str(ours)) for ours, theirs in (s.numbers for s in found)
    )


def settings_given(target: str, found: list[tuple[Step, Any, Any]], side: int) -> Intervention:
    """A side's steps are taken with the other side's hyperparameter."""
    values = tuple((step.numbers[side], values[1 - side]) for step, *values in found)
    return Intervention("set-hyperparameter", target, values)


def update_given(case: Case, found: Sequence[Step]) -> tuple[Intervention, ...]:
    """The candidate's updates are carried out as the reference's: what a trace can do.

    With its numbers, and without the ops that the candidate alone carries out or with those that the reference alone does.
    Empty where a step begins with other state, has ops of its own on both sides at one place, or any that no setting which
    is switched on or off on one side brings with it: then there may be other reasons.
    """
    partner = case.partners[0]
    given: list[Intervention] = []
    for step in found:
        ours, theirs = (_update(t, c) for t, c in zip(case.traces, step.calls, strict=True))
        inside = {call.index: call for call in theirs}
        if step.counts_differ or {partner[call.index] for call in ours if call.index in partner} - inside.keys():
            return ()
        alone = [
            c
            for calls, paired in zip((ours, theirs), case.partners, strict=True)
            for c in calls
            if c.index not in paired
        ]
        if alone and not (_switches(step) and all(_made_of(call, step) for call in alone)):
            return ()
        both = [(call, inside[partner[call.index]]) for call in ours if call.index in partner]
        for one, other in both:
            for which, value, _ in given_otherwise(one, other):
                numbers = as_value(value)
                if numbers is None:
                    return ()
                given.append(Intervention("set-argument", str(other.site), (which, *numbers)))
    for origin in case.localization.origins:
        if origin.kind == "region" and begins_otherwise(case, origin):
            lone = [index not in paired for index, paired in zip(origin.calls, case.partners, strict=True)]
            if lone[0] == lone[1]:
                return ()
            ours_at, theirs_at = origin.site.at(""), origin.candidate_site.at("")
            given.append(Intervention("insert-step" if lone[0] else "remove-step", str(theirs_at), str(ours_at)))
    return tuple(given)


def _switches(step: Step) -> bool:
    """Whether a setting that differs is off on one side."""
    ours, theirs = step.settings
    return any(bool(ours[name]) != bool(theirs[name]) for name in ours.keys() & theirs.keys())


def _made_of(call: Call, step: Step) -> bool:
    """Whether every number that an op is given is a setting, but for its sign, or one minus the product of two."""
    values = [value for side in step.settings for value in side.values()]
    values = [*itertools.chain.from_iterable(v if isinstance(v, (list, tuple)) else (v,) for v in values), 1]
    settings = {float(value) for value in values if isinstance(value, (int, float))}
    made = {0.0} | settings | {1 - one * other for one in settings for other in settings}
    args, named = call.arguments
    given = [value for value in (*args, *named.values()) if isinstance(value, float)]
    return all(any(math.isclose(abs(value), one) for one in made) for value in given)


def put_back(case: Case) -> tuple[Intervention, ...]:
    """All that the candidate's optimizers begin with otherwise is the reference's."""
    given = (settings_given(target, found, 1) for target, found in differing_settings(case).items())
    return (*state_restored(lost_at(case)), *given)
