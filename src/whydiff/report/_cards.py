"""A cause as a card: what happened, the evidence, both experiments and the fix to copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whydiff.records import STANDING, Cause, Experiment
from whydiff.report._effect import cause_effect
from whydiff.report.answer import sentence
from whydiff.report.proof import done, result, tried
from whydiff.report.words import clause, listed, place, plain

_STANDING = {**STANDING, "refuted": "ruled out", "inconclusive": "open"}
_CAME = {
    "confirmed": "as predicted",
    "located": "as predicted",
    "refuted": "not as predicted",
    "inconclusive": "undecided",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One experiment in words."""

    way: str
    status: str
    outcome: str
    done: str
    predicted: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One cause in words."""

    status: str
    standing: str
    says: str
    name: str
    site: str
    effect: str
    reason: str
    evidence: tuple[str, ...]
    experiments: tuple[Tried, ...]
    fix: str
    code: str
    tried: str


def cards(causes: Sequence[Cause]) -> tuple[Card, ...]:
    """A card for every cause, in the diagnosis' order."""
    return tuple(map(_card, causes))


def _card(cause: Cause) -> Card:
    return Card(
        status=cause.status,
        standing="no effect here" if cause.inert else _STANDING[cause.status],
        says=sentence(cause),
        name=plain(f"{cause.code} {cause.name}, {cause.status}"),
        site=place(cause.site),
        effect=cause_effect(cause).removeprefix(": "),
        reason=clause(cause.reason) if cause.status != "confirmed" else "",
        evidence=tuple(plain(one.statement) for one in cause.evidence),
        experiments=tuple(map(_tried, cause.experiments)),
        fix=plain(cause.remedy.text) if cause.remedy else "",
        code=plain(cause.remedy.code) if cause.remedy else "",
        tried=tried(cause).strip(),
    )


def _tried(experiment: Experiment) -> Tried:
    return Tried(
        way=done(experiment),
        status=_CAME[experiment.status],
        outcome=result(experiment),
        done=listed((plain(str(one)) for one in experiment.interventions), 4) or "nothing was changed",
        predicted=plain(experiment.prediction),
    )
