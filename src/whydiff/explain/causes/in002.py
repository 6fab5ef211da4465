"""IN002 positions-differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, executor_of
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Array, Finding, View, causes_of, number
from whydiff.explain.causes._flow import Roles, first_taker
from whydiff.explain.causes._places import moved
from whydiff.locate.origins import walk_origins
from whydiff.locate.resynchronised import Watcher
from whydiff.numbers.tolerance import SCALING_FLOOR, UNIT_ROUNDOFF
from whydiff.pair.lockstep import Lockstep, Look
from whydiff.records import Call, Cause, Evidence, Intervention, Origin, Remedy, Verdict

_STEPS = 8
_MOST = 1 << 20
"""Elements of a tensor that is looked at: positions are small (a size, not a tolerance)."""


class PositionsDiffer(CauseRule):
    """The two sides number the same tokens differently.

    What it detects:
        Positions that a run makes itself (a ramp of whole numbers that looks up a position table or becomes
        rotary angles) and that are shifted or run differently on the two sides.

    Why it happens:
        Positions counted from one, or from a padding index; left padding that is counted or not; packed
        sequences whose positions do not begin anew; a decoding step that starts at the wrong place of the
        cache.

    Evidence required:
        At an origin both sides write whole numbers that rise by one along the last axis for the most part,
        and what takes them up is a table lookup, or a cosine or sine. The offset, or how many positions
        differ, is measured. Of tokens beside a cache: counted on by one offset, all of them make the run agree with the
        other one, which takes the whole text at once, in float64.

    Look-alikes:
        IN001 if the positions are an argument of the run; ST002 if the table differs; IN003 if they only
        make a mask. Rotary attention sees distances only: a common offset changes nothing but rounding, and
        the verdict then is rounding.

    Example:
        Learned positions looked up from 0 and from 1.

    Remedy:
        Give both sides the same positions: with padding ``(mask.cumsum(-1) - 1).clamp(min=0)``, or counted on from
        where the reference begins (``padding_idx + 1``).

    How it is verified:
        By replay: the candidate's range is made with the reference's arguments (``set-argument``), or its positions
        are counted on by the offset (``shift``); the outputs must become equal bit for bit, and the reference's the
        candidate's with the opposite. Positions that run in another way are only located (``replace-op``), and so are
        those of tokens beside a cache (``count-on``), of which the reference has no counterparts.

    References:
        huggingface/transformers, ``position_ids`` of decoders and left padding; Su et al.,
        arXiv:2104.09864, section 3.2 (only distances matter).
    """

    code = "IN002"
    name = "positions-differ"
    yields_to = ("MD002", "IN004")

    def explain(self, view: View) -> Finding | None:
        """Two ramps that are not the same."""
        if not all(dtype.startswith(("int", "float")) for dtype in (p.dtype for p in view.seen.outputs)):
            return None
        ours, theirs = view.outputs
        if ours.shape != theirs.shape or not ours.size or not (_ramps(ours, theirs) or _single(ours, view)):
            return None
        steps = view.give_arguments() or view.give_constants() or _shift(view, ours, theirs) or view.replace_op()
        return _finding(view.case, ours, theirs, view.origin.calls, steps)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per way in which positions differ; between runs of two sizes, on the counterpart."""
        yield from causes_of(case, self, _remedy)
        for origin, finding in _of_counterparts(case) if case.localization.axes else ():
            yield self.cause(
                site=str(origin.site.at("")),
                verdict=finding.verdict,
                evidence=finding.evidence,
                remedy=_remedy(finding),
                interventions=finding.interventions,
            )
        beside = moved(case, _takes_positions, _STEPS)
        if beside is not None:
            yield self.cause(
                site=str(beside.taker.site.at("")),
                verdict=Verdict.SEMANTIC,
                evidence=(beside.evidence,),
                remedy=Remedy(
                    "Count a token's place before it is put into the cache: it is the number of tokens there."
                ),
                interventions=beside.put_right,
                says=f"tokens beside a cache stand at the reference's places {beside.offset:+d}",
            )

    def example(self) -> tuple[Any, Any]:
        """Positions from zero and from one."""
        import torch

        torch.manual_seed(0)
        words, places = torch.nn.Embedding(16, 8), torch.nn.Embedding(16, 8)
        ids = torch.tensor([[3, 1, 4, 1, 5]])

        def run(start: int) -> Any:
            return torch.tanh(words(ids) + places(torch.arange(start, start + ids.shape[1])))

        return lambda: run(0), lambda: run(1)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A table whose rows moved on, whole numbers that make a mask, rows taken for another purpose."""
        import copy

        import torch

        torch.manual_seed(0)
        words, places, x = torch.nn.Embedding(16, 8), torch.nn.Embedding(16, 8), torch.randn(5, 5)
        moved = copy.deepcopy(places)
        with torch.no_grad():
            moved.weight.copy_(places.weight.roll(1, 0))
        ids = torch.tensor([[3, 1, 4, 1, 5]])

        def looked_up(table: Any) -> Any:
            return torch.tanh(words(ids) + table(torch.arange(5)))

        def masked(first: int) -> Any:
            keys, queries = torch.arange(first, first + 5), torch.arange(5)
            return torch.softmax(x.masked_fill(keys[None] > queries[:, None] + 1, -torch.inf), -1)

        def spread(factor: int) -> Any:
            return torch.tanh(words(ids) + places(torch.arange(5) * factor))

        yield lambda: looked_up(places), lambda: looked_up(moved)
        yield lambda: masked(0), lambda: masked(1)
        yield lambda: spread(1), lambda: spread(2)


def _finding(
    case: Case, ours: Array, theirs: Array, calls: tuple[int, int], interventions: tuple[Intervention, ...]
) -> Finding | None:
    """Two ramps that are not the same, if positions are what they are taken up as."""
    taken = first_taker(case, calls, _takes_positions, _STEPS)
    if taken is None:
        return None
    taker, roles = taken
    offsets = np.unique(theirs - ours)
    apart = int(np.count_nonzero(theirs != ours))
    if len(offsets) == 1:
        text = f"all {ours.size} positions of the candidate are the reference's {offsets[0]:+.0f}"
    else:
        text = (
            f"{apart} of {ours.size} positions differ, by {offsets.min():+.0f} to {offsets.max():+.0f}: "
            f"{_shown(ours)} in the reference, {_shown(theirs)} in the candidate"
        )
    how = "look up a table" if Role.TABLE in roles else "become angles"
    harmless = _only_rounding(case)
    evidence = [
        Evidence(
            f"{text}; they {how} at {taker.site.at('')}",
            {
                "differing": apart,
                "positions": int(ours.size),
                "least": float(offsets.min()),
                "most": float(offsets.max()),
                "taken_up_at": str(taker.site.at("")),
            },
        )
    ]
    if harmless:
        evidence.append(
            Evidence(
                "in float64 the outputs agree: the program sees distances only", {"outputs_agree_in_float64": True}
            )
        )
    verdict = Verdict.ROUNDING if harmless else Verdict.SEMANTIC
    first, other = (max(0, int(one.max()) - one.shape[-1] + 1) if one.ndim else 0 for one in (ours, theirs))
    of_model = len(offsets) > 1 or Role.TABLE not in roles or _of_model(case, taker)
    facts = {"first": first, "other": other, "of_model": of_model, "shifted": len(offsets) == 1, "later": _later(taker)}
    return Finding(PositionsDiffer.code, text, verdict, tuple(evidence), interventions, facts)


def _shift(view: View, ours: Array, theirs: Array) -> tuple[Intervention, ...]:
    """Count on or back by the offset, if it is one and both values are written as they are taken up."""
    offsets = np.unique(ours - theirs)
    events = [
        next((e for e in trace.calls[event.producer].writes if e.storage == event.storage), None)
        for trace, event in zip(view.case.traces, view.seen.results, strict=True)
        if event.producer >= 0
    ]
    if len(offsets) != 1 or len(events) != 2 or events[0] is None or events[1] is None:
        return ()
    return (Intervention("shift", str(events[1].site), (int(offsets[0]), str(events[0].site))),)


def _remedy(finding: Finding) -> Remedy:
    """The positions that the reference has: counted from the first token that is not padding."""
    first = finding.facts["first"]
    if not finding.facts["of_model"]:
        other = finding.facts["other"]
        return Remedy(
            f"Take the same rows on both sides: they begin with {first} in the reference, {other} in the candidate.",
            undoes="either",
        )
    counted = f"mask = attention_mask.long()\npositions = mask.cumsum(-1) * mask + {first - 1}\n" if first else ""
    if finding.facts["shifted"]:
        return Remedy(
            f"Give both sides the same positions: here the first token stands at {first} in the reference, at "
            f"{finding.facts['other']} in the candidate.",
            "" if finding.facts["later"] else counted,
            undoes="either",
        )
    text = "Give both sides the same positions, counted from the first token that is not padding"
    if not first:
        return Remedy(f"{text}.", "positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)\n")
    return Remedy(f"{text}, whose position is {first} in the reference (RoBERTa: padding_idx + 1).", counted)


def _later(taker: Call) -> bool:
    """Whether positions were taken there before: of a prompt, whose padding was counted then."""
    return taker.site.occurrence > 0 or taker.site.step > 0


def _of_model(case: Case, taker: Call) -> bool:
    """Whether an op takes rows of a tensor that the model owns, as a table of positions is and rows of data are not."""
    trace = next(t for t in case.traces if any(call is taker for call in t.calls))
    tables = {event.storage for event in taker.reads if event.producer == -1}
    return any(leaf.is_registered and leaf.storage in tables for leaf in trace.leaves)


def _takes_positions(call: Call, roles: Roles) -> bool:
    """Whether an op makes angles of them or takes rows of a table by them; a mask is looked up by places."""
    numbers = any(event.spec.dtype in UNIT_ROUNDOFF for event in call.reads)
    return Role.ANGLE in roles or (Role.TABLE in roles and numbers)


def _of_counterparts(case: Case) -> Iterator[tuple[Origin, Finding]]:
    """Origins of runs of two sizes: the larger one's numbers for the tokens that both have."""
    origins = [origin for origin in case.localization.origins if _may_number(case, origin)] if case.replayable else []
    if not origins:
        return
    seen: dict[tuple[int, int], tuple[Array, Array]] = {}
    watcher, left = Watcher(), {origin.calls for origin in origins}

    def look_at(step: Lockstep, reference: Call, candidate: Call, look: Look) -> None:
        left.discard((reference.index, candidate.index))
        watcher.done = not left
        values = (look.reference_value, look.candidate_value)
        if values[0] is None or values[1] is None or look.reference.spec.numel > _MOST:
            return
        both = (number(step.reference.payload(values[0])), number(step.candidate.payload(values[1])))
        if both[0].shape == both[1].shape and both[0].size and _ramps(*both):
            seen.setdefault((reference.index, candidate.index), both)

    executors = [executor_of(trace) for trace in case.traces]
    step = Lockstep(executors[0], executors[1], case.alignment, case.localization.axes)
    walk_origins(step, on_origin=look_at, watcher=watcher, measured=False)
    for origin in origins:
        if origin.calls in seen:
            put = Intervention("replace-op", str(origin.candidate_site.at("")), str(origin.site.at("")))
            finding = _finding(case, *seen[origin.calls], origin.calls, (put,))
            if finding is not None:
                yield origin, finding


def _may_number(case: Case, origin: Origin) -> bool:
    """Whether what an origin gives is taken up as positions, if that is what it holds."""
    own = origin.kind in ("arguments", "implementation") and min(origin.calls) >= 0
    return own and first_taker(case, origin.calls, _takes_positions, _STEPS) is not None


def _ramps(ours: Array, theirs: Array) -> bool:
    """Whether both are whole numbers and most steps along the last axis are one up (or a stay)."""
    both = np.stack([ours, theirs])
    if not np.all(np.isfinite(both)) or np.any(both != np.rint(both)) or ours.ndim == 0 or ours.shape[-1] == 1:
        return False
    steps = np.diff(both, axis=-1)
    up = np.mean(steps == 1, axis=tuple(range(1, steps.ndim)))
    even = np.mean((steps == 0) | (steps == 1), axis=tuple(range(1, steps.ndim)))
    return bool(np.max(up) == 1 or np.min(even) == 1) and bool(np.all(up > 0)) and float(np.ptp(both)) > 1


def _single(ours: Array, view: View) -> bool:
    """Whether one number is made from nothing, as the position of a single token."""
    made = [calls[0] for calls in view.seen.calls if len(calls) == 1]
    whole = all(np.all(np.isfinite(one)) and np.all(one == np.rint(one)) for one in view.outputs)
    return whole and bool(made) and ours.size == 1 and all(not call.reads for call in made)


def _shown(numbers: Array) -> str:
    rows = np.atleast_2d(numbers).reshape(-1, numbers.shape[-1])
    row = rows[0].astype(np.int64).tolist()
    return "[" + ", ".join(map(str, row[:8])) + (", …]" if len(row) > 8 else "]")


def _only_rounding(case: Case) -> bool:
    apart = case.shared("apart in float64", lambda: case.experiments.apart_in_float64(()))
    return apart is not None and apart <= SCALING_FLOOR


REGISTER = PositionsDiffer()
