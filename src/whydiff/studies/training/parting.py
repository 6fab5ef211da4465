"""Where two logs of steps part: which step is which, what was restored, and the first step that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whydiff.capturing.steps import StepRecord

Steps = Sequence[StepRecord]
_Found = tuple[StepRecord, StepRecord, str, tuple[str, ...]]
_LOOKED_AT = 8
"""Steps of the shorter run that vote on which step of the other one it begins with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of what a step begins with, on both sides.

    Attributes:
        name: ``"parameters"``, ``"optimizer state"``, ``"hyperparameters"``, ``"random state"``, ``"batch"``.
        equal: None: it was not seen, or one side has none and the other neither.
        differing: what of it differs, by name.
    """

    name: str
    equal: bool | None
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parting:
    """The first step at which numbers differ.

    Attributes:
        step: of the reference; the candidate's is ``step - ahead``.
        what: ``"losses"``, ``"gradients"`` or ``"parameters"``, the first of them that differs.
        names: the tensors that differ.
        first: the step from which both runs have to be looked at.
        parts: what the step begins with.
    """

    step: int
    what: str
    names: tuple[str, ...]
    first: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A hyperparameter that differs.

    Attributes:
        name: ``"<group>.<name>"``.
        step: the first one of the reference at which it differs.
        reference, candidate: its values there; ``"not set"``: that side has none of this name.
        stays: whether both keep these values until the end.
    """

    name: str
    step: int
    reference: Any
    candidate: Any
    stays: bool


def offset(reference: Steps, candidate: Steps) -> int:
    """How many steps of the reference come before the candidate's first.

    The step of the reference that begins with the candidate's first parameters; if there is none, or several, the one
    of which most of what the first steps begin with is equal; 0 if nothing tells.
    """
    if not candidate:
        return 0
    shorter = min(len(reference), len(candidate))
    last = len(reference) - min(shorter, _LOOKED_AT)
    same = [n for n, step in enumerate(reference[: last + 1]) if step.weights == candidate[0].weights]
    return max(same or range(last + 1), key=lambda ahead: (_alike(reference, candidate, ahead), -ahead))


def _alike(reference: Steps, candidate: Steps, ahead: int) -> int:
    """In how many parts the first steps begin alike."""
    found = 0
    for ours, theirs in zip(reference[ahead : ahead + _LOOKED_AT], candidate[:_LOOKED_AT], strict=False):
        found += 2 * (ours.weights == theirs.weights)
        found += bool(ours.batch) and ours.batch == theirs.batch
        found += bool(ours.state) and ours.state == theirs.state
        found += bool(ours.losses) and _bits(ours.losses) == _bits(theirs.losses)
    return found


def pairs(reference: Steps, candidate: Steps, ahead: int) -> Iterator[tuple[StepRecord, StepRecord]]:
    """Steps that correspond."""
    return zip(reference[ahead:], candidate, strict=False)


def parting(reference: Steps, candidate: Steps, ahead: int) -> Parting | None:
    """The first step at which losses, gradients or parameters differ; None: at none.

    Gradients that differ count if what they update differs later, or if the logs end before that could be seen.
    """
    both = list(pairs(reference, candidate, ahead))
    found = [(ours, theirs, *differs) for ours, theirs in both if (differs := _differs(ours, theirs)) is not None]
    for place, (ours, theirs, what, names) in enumerate(found):
        if what == "gradients" and _without_effect(names, found[place:], seen=both[-1][0]):
            continue
        back = what == "parameters" and ours.number > ahead
        first = ours.number - 1 if back else ours.number
        return Parting(step=ours.number, what=what, names=names, first=first, parts=parts(ours, theirs))
    return None


def idle_gradients(
    reference: Steps, candidate: Steps, ahead: int, until: Parting | None
) -> tuple[int, tuple[str, ...]] | None:
    """The first step before a parting, and the tensors, whose gradients differ and change nothing; None: there is none."""
    for ours, theirs in pairs(reference, candidate, ahead):
        if until is not None and ours.number >= until.step:
            return None
        differs = _differs(ours, theirs)
        if differs is not None:
            return ours.number, differs[1]
    return None


def _without_effect(names: tuple[str, ...], found: Sequence[_Found], *, seen: StepRecord) -> bool:
    """Whether gradients that differ leave no trace: the first parameters that differ afterwards are others, or none do.

    Args:
        names: whose gradients they are.
        found: the steps that differ from there on.
        seen: the last record of the reference; one without a loss shows how the last update left the parameters.
    """
    for _, _, what, changed in found:
        if what == "parameters":
            return not set(names) & set(changed)
    return not seen.losses


def set_otherwise(reference: Steps, candidate: Steps, ahead: int, first: int) -> int | None:
    """The first step from a given one on that is taken with other hyperparameters; None: there is none."""
    for ours, theirs in pairs(reference, candidate, ahead):
        if ours.number >= first and ours.settings != theirs.settings:
            return ours.number
    return None


def settings(reference: Steps, candidate: Steps, ahead: int) -> tuple[Setting, ...]:
    """The hyperparameters that differ at some step, each where it first does; steps without any are passed over."""
    known = [
        (a.number, a.settings, b.settings) for a, b in pairs(reference, candidate, ahead) if a.settings and b.settings
    ]
    found = []
    for name in dict.fromkeys(key for _, *both in known for one in both for key in one):
        values = [(step, a.get(name, "not set"), b.get(name, "not set")) for step, a, b in known]
        apart = next((i for i, (_, one, other) in enumerate(values) if one != other), None)
        if apart is not None:
            step, one, other = values[apart]
            stays = all(later[1:] == (one, other) for later in values[apart:])
            found.append(Setting(name=name, step=step, reference=one, candidate=other, stays=stays))
    return tuple(found)


def _differs(ours: StepRecord, theirs: StepRecord) -> tuple[str, tuple[str, ...]] | None:
    same = len(ours.names) == len(theirs.names)  # under other names they are paired by place
    if not same or ours.weights != theirs.weights:
        return "parameters", _named(ours, ours.weights, theirs.weights)
    if _bits(ours.losses) != _bits(theirs.losses) and ours.losses and theirs.losses:
        return "losses", ()
    if ours.gradients != theirs.gradients and ours.losses and theirs.losses:
        return "gradients", _named(ours, ours.gradients, theirs.gradients)
    return None


def _bits(losses: Sequence[float]) -> list[str]:
    """Losses as texts that are equal where the numbers are: NaN is NaN, and 0 is not -0."""
    return [float(loss).hex() for loss in losses]


def _named(ours: StepRecord, one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name, a, b in zip(ours.names, one, other, strict=False) if a != b)


def parts(ours: StepRecord, theirs: StepRecord) -> tuple[Part, ...]:
    """What a step begins with, part by part."""
    seen = bool(ours.batch) and bool(theirs.batch)
    return (
        Part(
            name="parameters",
            equal=ours.weights == theirs.weights,
            differing=_named(ours, ours.weights, theirs.weights),
        ),
        _mapping("optimizer state", ours.state, theirs.state),
        _mapping("hyperparameters", ours.settings, theirs.settings),
        _mapping("random state", ours.random, theirs.random),
        Part(name="batch", equal=ours.batch == theirs.batch if seen else None),
    )


def _mapping(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Part:
    keys = dict.fromkeys((*ours, *theirs))
    differing = tuple(key for key in keys if ours.get(key) != theirs.get(key) or (key in ours) != (key in theirs))
    return Part(name=name, equal=not differing if keys else None, differing=differing)
