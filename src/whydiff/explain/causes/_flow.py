"""Where a value goes: by the kind of op that takes it up, not by anybody's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Array, consumers
from whydiff.records import Call, Event, Intervention

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
    for side, trace in enumerate(case.traces):
        for call in consumers(case, side, trace.calls[calls[side]], most):
            roles = for_framework(trace.framework).roles(call.site.op)
            if is_it(call, roles):
                return call, roles
    return None


def first_scored(case: Case, calls: tuple[int, int], most: int) -> Call | None:
    """The first softmax or attention that a value reaches."""
    found = first_taker(case, calls, lambda call, roles: Role.SCORED in roles, most)
    return found and found[0]


def readers_of(case: Case, ours: int, theirs: int) -> Iterator[Event]:
    """Candidate's reads of what the call ``theirs`` wrote whose counterpart reads what ``ours`` wrote."""
    yield from (ec for _, ec in reads_of(case, (ours, theirs)))


def reads_of(case: Case, calls: tuple[int, int]) -> Iterator[tuple[Event, Event]]:
    """Both sides' reads that correspond, of what the reference's and of what the candidate's call wrote."""
    for pair in case.alignment.pairs:
        reads = (case.reference.calls[pair.reference].reads, case.candidate.calls[pair.candidate].reads)
        for er, ec in zip(*reads, strict=False):  # one op may read more on one side; the rest has no counterpart
            if (er.producer, ec.producer) == calls:
                yield er, ec


def read_from(wanted: Call, event: Event) -> Intervention:
    """A read of what another call wrote."""
    written = next((w for w in wanted.writes if w.spec.shape == event.spec.shape), wanted.writes[0])
    return Intervention("read-from", str(event.site), str(written.site))


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
