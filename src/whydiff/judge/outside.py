"""Outputs that no observed op returned: numbers and words that Python made, which the observed runs say nothing of.

Where the observed runs differ mildly (by rounding or by precision), such an output may differ for that reason or for
another one. Where it holds, on both sides, what one pair of calls wrote (``float(loss)``), the scaling test is made of
what those calls write; else of the plain programs, run again in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whydiff.capturing.adapters import Executor, replayable
from whydiff.errors import PayloadError, attempted
from whydiff.explain.case import Case
from whydiff.explain.reruns import SIDES, rerun
from whydiff.explain.scale import Scale, choices, difference
from whydiff.explain.sides import Side
from whydiff.judge.outputs import Anchor, Compared
from whydiff.numbers.comparison import compare_payloads
from whydiff.pair.replay import replay
from whydiff.records import Call, Lift, Payload, Slot, Verdict

_MILD = (Verdict.IDENTICAL, Verdict.ROUNDING, Verdict.PRECISION)
_Place = tuple[int, int]
"""A call's index and which of its written values."""


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
    return attempted("the outputs that no op returned", lambda: _told(case, left), otherwise)


def _told(case: Case, left: Sequence[Compared]) -> Outside | None:
    try:
        scales = _written(case, [one for one in left if one.numbers is not None])
    except PayloadError:  # what is returned cannot be made again: the plain programs are asked
        scales = {}
    stay = [one for one in left if one.slot in scales and scales[one.slot].nature == "stays"]
    if stay:
        return Outside(tuple(stay), Verdict.SEMANTIC, f"lifted: {scales[stay[0].slot]}")
    open_ = tuple(one for one in left if one.slot not in scales or scales[one.slot].nature == "between")
    if not open_:
        return None
    plain = rerun(case, tuple(one.slot for one in open_))
    if plain is None:
        return Outside(open_)
    mild = plain.verdict in (Verdict.ROUNDING, Verdict.PRECISION)
    return None if mild else Outside(open_, plain.verdict, str(plain))


def _written(case: Case, outputs: Sequence[Compared]) -> dict[Slot, Scale]:
    """Of outputs that hold what one pair of calls wrote: those values' difference as they are and in float64."""
    if not outputs or any(replayable(trace) for trace in (case.reference, case.candidate)):
        return {}
    places = [_places(case, side, number, outputs) for number, side in enumerate(SIDES)]
    pairs = {pair.reference: pair.candidate for pair in case.alignment.pairs}
    chosen = {
        one.slot: (here, there)
        for one in outputs
        for here in places[0].get(one.slot, ())
        if (there := (pairs.get(here[0], -1), here[1])) in places[1].get(one.slot, ())
    }
    if not chosen:
        return {}
    wide = [_values(case, side, {at[n] for at in chosen.values()}, Lift("float64")) for n, side in enumerate(SIDES)]
    found = {}
    for one in outputs:
        if one.slot not in chosen or one.numbers is None:
            continue
        lifted = [values.get(at) for values, at in zip(wide, chosen[one.slot], strict=True)]
        for measure in (difference, choices):
            single = measure(*one.numbers)
            double = measure(lifted[0], lifted[1]) if lifted[0] and lifted[1] else None
            if single is not None and double is not None:
                found[one.slot] = Scale(single, double, str(one.slot))
    return found


def _places(case: Case, side: Side, number: int, outputs: Sequence[Compared]) -> dict[Slot, set[_Place]]:
    """Output → where a side's recorded program writes just its values."""
    wanted = [(one.slot, _flat(one.numbers[number])) for one in outputs if one.numbers is not None]
    sizes = {payload.bits.size for _, payload in wanted}
    found: dict[Slot, set[_Place]] = {}

    def look(executor: Executor, call: Call) -> None:
        for slot, event in enumerate(call.writes):
            if event.spec.numel not in sizes or event.missing:
                continue
            written = _flat(executor.payload(executor.read(event)))
            for name, payload in wanted:
                if written.bits.size == payload.bits.size and compare_payloads(payload, written).status == "agrees":
                    found.setdefault(name, set()).add((call.index, slot))

    replay(case.experiments.executor(side), watch=look)
    return found


def _values(case: Case, side: Side, places: set[_Place], lift: Lift) -> dict[_Place, Payload]:
    found: dict[_Place, Payload] = {}

    def look(executor: Executor, call: Call) -> None:
        for slot, event in enumerate(call.writes):
            if (call.index, slot) in places:
                found[call.index, slot] = executor.payload(executor.read(event))

    replay(case.experiments.executor(side, lift), watch=look)
    return found


def _flat(payload: Payload) -> Payload:
    return Payload(payload.bits.reshape(-1), payload.dtype)


__all__ = ["Outside", "outside"]
