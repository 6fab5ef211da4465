"""Where a value goes: by the kind of op that takes it up, not by anybody's names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Array, consumers
from whydiff.records import Call

Roles = frozenset[Role]


def first_taker(
    case: Case, calls: tuple[int, int], is_it: Callable[[Call, Roles], bool], most: int
) -> tuple[Call, Roles] | None:
    """The first op of a kind that a value reaches over at most ``most`` others, on either side, and its roles.

    Args:
        case: the pair of runs.
        calls: the call that made the value, per side.
        is_it: whether a call that plays these parts is of the kind.
        most: how many steps to follow the value.
    """
    for side, trace in enumerate((case.reference, case.candidate)):
        for call in consumers(case, side, trace.calls[calls[side]], most):
            roles = for_framework(trace.framework).roles(call.site.op)
            if is_it(call, roles):
                return call, roles
    return None


def first_scored(case: Case, calls: tuple[int, int], most: int) -> Call | None:
    """The first softmax or attention that a value reaches."""
    found = first_taker(case, calls, lambda call, roles: Role.SCORED in roles, most)
    return found and found[0]


def listed_indices(where: Array, most: int = 6) -> str:
    """Indices in words: ``0–3, 7``; beyond ``most`` stretches only how many more."""
    stretches: list[list[int]] = []
    for index in np.flatnonzero(where).tolist():
        if stretches and stretches[-1][1] == index - 1:
            stretches[-1][1] = index
        else:
            stretches.append([index, index])
    texts = [f"{a}" if a == b else f"{a}–{b}" for a, b in stretches[:most]]
    more = f" and {len(stretches) - most} more stretches" if len(stretches) > most else ""
    return ", ".join(texts) + more


__all__ = ["Roles", "first_scored", "first_taker", "listed_indices"]
