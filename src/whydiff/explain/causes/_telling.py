"""What the causes say of one place, or of several together, and in which order they are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from whydiff.errors import ReplayError, guarded
from whydiff.explain.causes._asked import who
from whydiff.explain.causes._rule import CauseRule
from whydiff.explain.causes._view import Finding, View
from whydiff.explain.local_test import Examined
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
