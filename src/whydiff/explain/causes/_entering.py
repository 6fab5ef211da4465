"""A number that enters a program where it is used: part of a formula, and no input."""

from __future__ import annotations

import numpy as np

from whydiff.capturing.adapters import Executor, Role, executor_of, for_framework
from whydiff.errors import PayloadError, WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._values import number
from whydiff.explain.causes._view import View, consumers
from whydiff.numbers.tolerance import EPSILONS
from whydiff.pair.replay import replay
from whydiff.records import Call, Payload


def entering_epsilons(view: View) -> tuple[float, float] | None:
    """Both sides' epsilon: a number that Python made is added to values, none below 0, of which a root is taken."""
    known: dict[int, tuple[float, float] | None] = view.case.shared("epsilons that enter", dict)
    at = view.origin.calls[0]
    if at not in known:
        found = _entering(view)
        known[at] = found if found is not None and _keeps_from_zero(view.case, at, found) else None
    return known[at]


def entering_number(view: View) -> tuple[float, float, str] | None:
    """The one number that Python made and that enters at an origin, on both sides, and the op that takes it up.

    Where an op converts the number first (JAX does it to every one that is written in the code), what reads it then.
    """
    found = _entering(view)
    if found is None:
        return None
    roles, call = for_framework(view.case.reference.framework).roles, view.case.reference.calls[view.origin.calls[0]]
    while Role.CARRIES in roles(call.site.op) and len(after := consumers(view.case, 0, call, 1)) == 1:
        call = after[0]
    return *found, call.site.op


def _entering(view: View) -> tuple[float, float] | None:
    """The one number that enters at an origin, on both sides."""
    if len(view.constants) != 1:
        return None
    case, (ours, theirs) = view.case, view.constants[0]
    if ours.spec.numel != 1:
        return None
    try:
        one, other = (number(case.payload(ours, "reference")), number(case.payload(theirs, "candidate")))
    except PayloadError:
        return None
    return float(one.reshape(-1)[0]), float(other.reshape(-1)[0])


def _keeps_from_zero(case: Case, at: int, epsilons: tuple[float, float]) -> bool:
    """Whether what enters at a call is added before a root, to values above the smaller epsilon and none below 0.

    A number that is none of those called epsilons (`EPSILONS`) is a part of the formula: a radius, a bandwidth.
    """
    if not 0 <= min(epsilons) < EPSILONS:
        return False
    roles = for_framework(case.reference.framework).roles
    for call in (case.reference.calls[at], *consumers(case, 0, case.reference.calls[at], 2)):
        rooted = Role.PLUS in roles(call.site.op) and any(
            Role.ROOT in roles(one.site.op) for one in consumers(case, 0, call, 1)
        )
        if rooted and (added := _other_operand(case, call)) is not None:
            values = number(added)
            return bool(values.size > 1 and values.min() >= 0 and min(epsilons) < np.mean(values))
    return False


def _other_operand(case: Case, call: Call) -> Payload | None:
    """The larger operand of an addition, from a replay; None: there is none, or it cannot be made again."""
    event = max(call.reads, key=lambda event: event.spec.numel, default=None)
    found: list[Payload] = []

    def look(executor: Executor, one: Call) -> None:
        if one.index == call.index and event is not None:
            found.append(executor.payload(executor.read(event)))

    try:
        replay(executor_of(case.reference), before=look, until=call.index)
    except WhydiffError:
        return None
    return found[0] if found else None
