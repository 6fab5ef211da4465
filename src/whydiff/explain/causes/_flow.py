"""Where a value goes: by the kind of op that takes it up, not by anybody's names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Array, consumers
from whydiff.records import Call

_TABLES = frozenset({"embedding", "index", "index_select", "gather", "take", "take_along_dim"})
_ANGLES = frozenset({"cos", "sin"})
_SOFTMAX = frozenset({"softmax", "_softmax", "_safe_softmax", "exp"})


def looks_up(call: Call) -> bool:
    """Whether an op takes rows of a table."""
    return call.site.op in _TABLES


def turns(call: Call) -> bool:
    """Whether an op makes angles into rotations (or sinusoids)."""
    return call.site.op in _ANGLES


def attends(call: Call) -> bool:
    """Whether an op is a softmax or an attention kernel."""
    return call.site.op in _SOFTMAX or "scaled_dot_product" in call.site.op


def first_taker(case: Case, calls: tuple[int, int], is_it: Callable[[Call], bool], most: int) -> Call | None:
    """The first op of a kind that a value reaches over at most ``most`` others, on either side.

    Args:
        case: the pair of runs.
        calls: the call that made the value, per side.
        is_it: the kind of op.
        most: how many steps to follow the value.
    """
    for side, trace in enumerate((case.reference, case.candidate)):
        for call in consumers(case, side, trace.calls[calls[side]], most):
            if is_it(call):
                return call
    return None


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


__all__ = ["attends", "first_taker", "listed_indices", "looks_up", "turns"]
