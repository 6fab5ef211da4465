"""Every registered cause, in the order in which they are asked; what they say of one place, or of several together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from whydiff import registry
from whydiff.errors import ReplayError, UsageError, guarded
from whydiff.explain.case import Case
from whydiff.explain.causes._rule import CauseRule, in_order
from whydiff.explain.causes._view import Finding, View
from whydiff.explain.local_test import Examined
from whydiff.records import Cause
from whydiff.records.hole import OUTSIDE


def told_by(rule: CauseRule, ask: Callable[[Any], Finding | None], view: View) -> Finding | None:
    """What a cause answers; nothing if it raises, or asks for an oracle where there is none (the local test says so)."""
    with guarded(who(rule)):
        try:
            return ask(view)
        except ReplayError:
            return None
    return None


def answers(rules: Sequence[CauseRule], view: View) -> Iterator[Finding | None]:
    """What the causes say of a place: those that know their mistake first, also of the part of it that differs."""
    if view.seen.sampled:
        yield from (told_by(rule, rule.explain, view) for rule in rules if rule.samples)
        return
    yield from (told_by(rule, rule.explain, view) for rule in rules if not rule.general)
    part = view.narrowed
    yield from (told_by(rule, rule.explain, part) for rule in rules if part is not None and not rule.general)
    yield from of_numbers(rules, view)
    yield from (told_by(rule, rule.explain, part) for rule in rules if part is not None and rule.general)
    yield from (told_by(rule, rule.explain, view) for rule in rules if rule.general)


def of_numbers(rules: Sequence[CauseRule], view: View, both: bool = False) -> Iterator[Finding | None]:
    """What the causes say of the numbers in the code by which the part of a place that differs does so.

    Args:
        rules: in their order.
        view: the place.
        both: only where each side has such a number.
    """
    part = view.narrowed or view
    known = part.numbers if view.other_function else None
    if known is not None and (all(known.numbers) or not both):
        yield from (told_by(rule, rule.explain_number, part) for rule in rules)


def is_open(told: Sequence[Finding]) -> bool:
    """Whether numbers in the code may say more of several places: one is less to believe than several mistakes.

    Not where a step was found at another place: it is moved, and its numbers with it.
    """
    keys = {finding.key for finding in told}
    moved = any("ops" in finding.facts and "side" not in finding.facts for finding in told)
    return not moved and (len(keys) > 1 or all(finding.general for finding in told))


def by_no_op(seen: Examined) -> bool:
    """Whether what differs was written on one side, outside of any op: then it is no known mistake in an op."""
    one, other = sorted(seen.calls, key=len)
    return not one and bool(other) and all(call.site.op == OUTSIDE for call in other)


def moved(told: dict[int, Finding], members: Sequence[int]) -> bool:
    """Whether one step is left out at one of the places on one side, and at the other place on the other."""
    facts = [told[member].facts for member in members if member in told and told[member].general]
    steps = {(fact.get("side"), fact.get("ops")) for fact in facts}
    return (
        len(facts) == len(members) == len(steps) == 2
        and None not in {ops for _, ops in steps}
        and (len({ops for _, ops in steps}) == 1)
    )


@functools.cache
def asked() -> tuple[CauseRule, ...]:
    """Every registered cause, in the order in which they are asked to explain a place."""
    return in_order(registry.parts("causes"))


def detectors() -> tuple[CauseRule, ...]:
    """Every registered cause, by code."""
    return tuple(sorted(asked(), key=lambda rule: rule.code))


def by_code(code: str) -> CauseRule:
    """The cause of a code or name.

    Raises:
        UsageError: there is none.
    """
    found = [d for d in detectors() if code.lower() in (d.code.lower(), d.name)]
    if not found:
        known = ", ".join(f"{d.code} {d.name}" for d in detectors())
        raise UsageError("There is no such cause.", actual=code, expected=known)
    return found[0]


def is_general(code: str) -> bool:
    """Whether a cause says what differs without knowing the mistake."""
    return by_code(code).general


@functools.cache
def who(rule: CauseRule) -> str:
    """A cause in words, for counting what it raised: where a third party's comes from."""
    name = next(name for name, part in registry.parts("causes").items() if part is rule)
    return registry.described("causes", name)


def proposed(rule: CauseRule, case: Case) -> list[Cause]:
    """What a cause proposes; what it had proposed before it raised."""
    found: list[Cause] = []
    with guarded(who(rule)):
        causes: Iterable[object] = rule.detect(case)
        for cause in causes:
            if not isinstance(cause, Cause) or cause.code != rule.code:
                raise TypeError(f"detect() gave {cause!r:.80}, not a whydiff.records.Cause of code {rule.code}")
            found.append(replace(cause, says=cause.says or rule.sentence()))
    return found
