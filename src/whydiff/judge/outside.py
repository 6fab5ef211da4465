"""Outputs that no observed op returned: numbers and words that Python made, which the observed runs say nothing of.

Where the observed runs differ mildly (by rounding or by precision), such an output may differ for that reason or for
another one. Where it holds, on both sides, what calls wrote (``float(loss)``), the scaling test is made of what those
calls write; else of the plain programs, run again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whydiff.errors import attempted
from whydiff.explain.case import Case
from whydiff.explain.reruns import Rerun, recorded, rerun
from whydiff.judge.outputs import Anchor, Compared
from whydiff.records import Verdict

_MILD = (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION)


@dataclass(frozen=True, slots=True)
class Outside:
    """What is known of the differing outputs that no observed op returned, and that do not follow from one.

    Attributes:
        outputs: which.
        verdict: semantic: they differ at any precision; inconclusive: it cannot be told.
        reason: the measurement, as a sentence; empty: there is none.
    """

    outputs: tuple[Compared, ...]
    verdict: Verdict = Verdict.INCONCLUSIVE
    reason: str = ""


def outside(case: Case, found: Anchor, verdict: Verdict) -> Outside | None:
    """Differing outputs that do not follow from a mild difference of the observed runs; None: there are none."""
    seen = {slot for slot, comparison in case.localization.outputs if comparison.status == "differs"}
    left = [one for one in found.having("values", "text") if one.slot not in seen]
    if verdict not in _MILD or found.substitute or not left:
        return None
    otherwise: Outside | None = Outside(tuple(left))
    return attempted("the outputs that no op returned", lambda: _told(case, found, left), otherwise)


def unobserved(case: Case, found: Anchor, plainly: bool) -> Rerun | None:
    """What the programs, carried out in float64, say of outputs that differ where the observed runs do not tell.

    Where observing changed nothing the record is asked first: two traces of the runs say what the runs say.

    Args:
        case: the pair of runs.
        found: their outputs.
        plainly: the observed runs are those that gave the outputs, and all of them agree.
    """
    told = _by_record(case, found, found.outputs) if plainly else None
    return told if told is not None and told.verdict is not Verdict.INCONCLUSIVE else rerun(case)


def _by_record(case: Case, found: Anchor, looked_at: Sequence[Compared]) -> Rerun | None:
    numbers = {one.slot: one.numbers for one in found.outputs if one.numbers is not None}
    told = recorded(case, numbers, [one.slot for one in looked_at if one.numbers is not None])
    words = any(one.found not in ("equal", "left_out") and one.numbers is None for one in looked_at)
    return told if told is None or told.verdict is Verdict.SEMANTIC or not words else None


def _told(case: Case, found: Anchor, left: Sequence[Compared]) -> Outside | None:
    told = [(one, _by_record(case, found, [one])) for one in left]
    stay = [(one, by) for one, by in told if by is not None and by.verdict is Verdict.SEMANTIC]
    if stay:
        return Outside(tuple(one for one, _ in stay), Verdict.SEMANTIC, str(stay[0][1]))
    open_ = tuple(one for one, by in told if by is None or by.verdict is Verdict.INCONCLUSIVE)
    if not open_:
        return None
    plain = rerun(case, tuple(one.slot for one in open_))
    if plain is None:
        return Outside(open_)
    mild = plain.verdict in (Verdict.ROUNDING, Verdict.PRECISION)
    return None if mild else Outside(open_, plain.verdict, str(plain))
