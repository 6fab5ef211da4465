"""Programs that one side compiles as a whole and the other in smaller pieces: what CP002 says where both are seen inside."""

from __future__ import annotations

from dataclasses import dataclass

from whydiff.capturing.adapters import Run, Way
from whydiff.explain.case import Case
from whydiff.explain.causes._compiled import stale_sides
from whydiff.explain.causes._explained import named
from whydiff.explain.contraction import Contraction, contractions
from whydiff.explain.ladder import Climb, apart, climbed, numbers
from whydiff.explain.reruns import Rerun, recorded
from whydiff.explain.sides import SIDES, Side
from whydiff.records import Verdict

_OPENED = Way("eager")


@dataclass(frozen=True, slots=True)
class Opened:
    """Both programs, carried out op by op, give the same bits: only compiling makes the difference.

    Attributes:
        side: compiles larger programs than the other.
        ladder: what the ladder says of it; None: compiled whole it gives what its ops give, the other one does not.
        numbers: the difference at two precisions, from the record; None: it does not tell.
    """

    side: Side
    ladder: Climb | None
    numbers: Rerun | None

    @property
    def verdict(self) -> Verdict:
        """What the difference amounts to."""
        return Verdict.INCONCLUSIVE if self.numbers is None else self.numbers.verdict


def opened(case: Case) -> Opened | None:
    """What is made by compiling alone, where compiled programs are seen inside; None: nothing, or a cause knows it better."""
    runs = case.runs
    if runs[0] is None or runs[1] is None or not _asked(case, runs[0], runs[1]):
        return None
    side = SIDES[int(runs[1].dispatched < runs[0].dispatched)]
    if not any(run.rungs() for run in runs if run is not None) or not _same_ops(runs[0], runs[1]):
        return None
    if stale_sides(case) or _all_known(case):
        return None
    told = recorded(case, {slot: (ours, theirs) for slot, ours, theirs in case.localization.returned})
    return Opened(side, climbed(case, side), told)


def _asked(case: Case, reference: Run, candidate: Run) -> bool:
    """Whether the frameworks tell, one side was handed fewer and larger programs, and state and inputs are equal."""
    known = 0 not in (reference.dispatched, candidate.dispatched)
    other = reference.dispatched != candidate.dispatched and bool(case.localization.origins)
    return known and other and case.repeats and not case.differing_leaves


def _same_ops(reference: Run, candidate: Run) -> bool:
    """Whether both, op by op, give the same bits, and as they are other ones."""
    given = [run.compiled_as(_OPENED).outputs for run in (reference, candidate)]
    if given[0] is None or given[1] is None:
        return False
    plain = [numbers(run.anchor()) for run in (reference, candidate)]
    return apart(*plain) > 0 and apart(numbers(given[0]), numbers(given[1])) == 0


def contracted(case: Case, side: Side) -> tuple[Contraction, ...]:
    """Where a side's record holds fused multiply-adds; looked for once."""
    trace = case.trace(side)
    return case.shared(f"contractions {side}", lambda: contractions(trace, case.experiments.executor(side)))


def _all_known(case: Case) -> bool:
    """Whether a cause that knows what was done stands for every place where a difference starts."""
    known = set(named(case))
    fused = [{one.call for one in contracted(case, side)} for side in SIDES]
    return all(
        index in known or (origin.calls[0] in fused[0]) != (origin.calls[1] in fused[1])
        for index, origin in enumerate(case.localization.origins)
    )
