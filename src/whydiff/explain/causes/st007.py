"""ST007 carried-value-replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._carried import Seam, seam
from whydiff.explain.causes._copied import Copied, copied_over
from whydiff.explain.causes._explained import Finding, View, causes_of, explained_calls, grouped
from whydiff.explain.causes._flow import read_from, reads_of
from whydiff.explain.causes._looks import leaves
from whydiff.explain.keys import draws
from whydiff.explain.sides import SIDES
from whydiff.records import Call, Cause, Evidence, Remedy, Verdict
from whydiff.report.words import listed


class CarriedValueReplaced(CauseRule):
    """A run goes on with values that it did not compute, where the other one goes on with what it has computed so far.

    What it detects:
        A value that one side takes up from its own earlier ops, and the other side reads from outside of them: a moving
        average that begins anew, moments that are zero again, a buffer that a checkpoint wrote over.

    Why it happens:
        A run was resumed and not everything was restored: the average of the weights, an optimizer's state that a
        library keeps apart, a scaler, counters. What is missing is made anew, or filled with something near it.

    Evidence required:
        The ops that only one side has before the value is taken up read nothing but tensors from outside (a
        checkpoint, weights, constants) or nothing at all, and the other side's value was made by its ops; ops that
        one side alone has do not take that value up in another way (a masked mean: what the mask is made of replaces
        nothing). Or a value was carried from round to round on both sides (the same op made it of its own last one
        and of the same tensors), one side goes on with it, and the other reads something else and nothing of its own
        any more. Or a copy that the candidate alone has fills memory with what is made of earlier values, where the
        reference goes on with the one that they led to.

    Look-alikes:
        TR002 if a torch optimizer begins a step with other state. IN001 if both sides read it from outside. FO006 if both
        values are read on, in each other's place. FO007 if the ops work on a value that was computed. MD002 if they draw.
        IN002 and IN003 for positions and masks.

    Example:
        A moving average that is copied from the first value after two rounds.

    Remedy:
        Save what a run carries over, and restore all of it.

    How it is verified:
        By replay: the candidate goes on with its own value (``read-from``), the reference with what the candidate takes;
        the outputs must become equal, both ways. Where the value comes from outside, the reference's takes its place
        (``replace-op``), which only locates.

    References:
        PyTorch, Saving and loading a general checkpoint; optax, checkpointing of optimizer states.
    """

    code = "ST007"
    name = "carried-value-replaced"
    says = "the {side} goes on with values it did not compute, the {other} with its own"
    yields_to = ("MD002", "TR002", "IN002")
    precedes = ("FO006", "FO007", "FO008")

    def explain(self, view: View) -> Finding | None:
        """A value that is carried no further, or ops of one side that make a value from nothing that was computed."""
        lost = seam(view)
        if lost is not None and _crosswise(view.case, lost):
            return None  # each of two is read where the other was: FO006
        if lost is not None:
            return _lost(view, lost)
        copied = copied_over(view.case, view.origin)
        if copied is not None and view.exchange_step() == view.replace_op():  # else it is a step, and proven as one
            return _filled(copied)
        counts = [len(calls) for calls in view.seen.calls]
        if view.origin.kind != "region" or min(counts) or not max(counts) or view.one_function:
            return None
        side = int(counts[1] > 0)
        computed, trace = view.seen.results[1 - side], view.case.traces[side]
        calls, reads = view.seen.calls[side], [event for event in view.seen.reads[side] if event.storage >= 0]
        if computed.producer < 0 or any(draws(trace, call) for call in calls):
            return None
        if not all(leaves(trace, event) for event in reads) or _taken_up_otherwise(view.case, side, computed.producer):
            return None
        names = {leaf.name for event in reads for leaf in leaves(trace, event)}
        origin = (view.origin.candidate_site, view.origin.site)[side]
        evidence = Evidence(
            f"the {SIDES[side]} takes what {listed(call.site.op for call in calls)} made of "
            f"{listed(sorted(names)) or 'nothing'} where the {SIDES[1 - side]} takes what {origin.at('')} made",
            {"side": SIDES[side], "ops": [str(call.site) for call in calls], "read": sorted(names)},
        )
        facts = {"side": SIDES[side], "other": SIDES[1 - side]}
        return Finding(self.code, SIDES[side], Verdict.SEMANTIC, (evidence,), view.replace_op(), facts)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side, and one for all memory that is filled from another value than the one come to."""
        yield from causes_of(case, self, _remedy)
        known = explained_calls(case)
        origins = [origin for origin in case.localization.origins if origin.calls not in known]
        found = [(origin, copied) for origin in origins if (copied := copied_over(case, origin)) is not None]
        if found:
            group = [(origin, _filled(copied)) for origin, copied in found]
            yield from grouped([group], self, _remedy)

    def example(self) -> tuple[Any, Any]:
        """A moving average that begins anew from the first value."""
        import torch

        torch.manual_seed(0)
        x, first = torch.randn(4, 8), torch.randn(8)

        def run(lost: bool) -> Any:
            average = first.clone()
            for number, row in enumerate(x):
                if lost and number == 2:
                    average = first.clone()
                average = 0.8 * average + torch.tanh(row)
            return average

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A step on the value itself, another first value, another weight; two averages exchanged; another residual."""
        import torch

        torch.manual_seed(0)
        x, first, other = torch.randn(4, 8), torch.randn(8), torch.randn(8)
        weights = [torch.randn(8, 8) / 8 for _ in range(3)]

        def run(begin: Any, share: float = 0.8, halved: bool = False) -> Any:
            average = begin * 1.0
            for row in x:
                average = share * (average.relu() if halved else average) + torch.tanh(row)
            return average

        def exchanged(at: int = -1) -> Any:
            fast, slow = first * 1.0, other * 1.0
            for number, row in enumerate(x):
                if number == at:
                    fast, slow = slow, fast
                fast, slow = 0.5 * fast + torch.tanh(row), 0.9 * slow + torch.tanh(row)
            return fast - slow.relu()

        def residual(at: int = -1) -> Any:
            h = x * 1.0
            for number, weight in enumerate(weights):
                inner = torch.relu(h @ weight)
                h = (inner if number == at else h) + torch.tanh(inner)
            return h

        yield (lambda: run(first)), (lambda: run(first, halved=True))
        yield (lambda: run(first)), (lambda: run(other))
        yield (lambda: run(first)), (lambda: run(first, 0.9))
        yield (lambda: exchanged()), (lambda: exchanged(2))
        yield (lambda: residual()), (lambda: residual(2))


def _crosswise(case: Case, lost: Seam) -> bool:
    """Whether the other side goes on elsewhere with the counterpart of what this one goes on with here."""
    counterpart = case.partners[lost.side].get(lost.taken.producer)
    if counterpart is None:
        return False
    kept = lost.carried[lost.side].index
    return any(reads_of(case, (counterpart, kept) if lost.side else (kept, counterpart)))


def _taken_up_otherwise(case: Case, side: int, made: int) -> bool:
    """Whether a side goes on with its counterpart of the other side's value after all, in ops that it alone has."""
    own = case.partners[1 - side].get(made)
    alone = (case.alignment.unpaired_reference, case.alignment.unpaired_candidate)[side]
    trace = case.traces[side]
    return any(event.producer == own for index in alone for event in trace.calls[index].reads)


def _lost(view: View, found: Seam) -> Finding:
    side, case = found.side, view.case
    traces = case.traces
    taken = found.taken.producer
    what = traces[side].calls[taken].site if taken >= 0 else listed(x.name for x in leaves(traces[side], found.taken))
    carried = found.carried[side].site
    evidence = Evidence(
        f"the {SIDES[side]} goes on with {what or 'another tensor'}, and nothing reads what {carried} made any more; the "
        f"{SIDES[1 - side]} goes on with it, and both sides did so {found.rounds} times before",
        {"side": SIDES[side], "taken": str(what), "carried": str(carried), "rounds": found.rounds},
    )
    wanted: Call | None = found.carried[1]
    if side == 0:  # the candidate, which carries it on, takes what the reference takes
        theirs = case.partners[0].get(taken)
        wanted = None if theirs is None else case.candidate.calls[theirs]
    paired = taken in case.partners[side]
    if wanted is not None and paired and not view.seen.calls[side]:
        given = tuple(read_from(wanted, event) for _, event in found.reads)
    else:
        given = view.replace_op()
    facts = {"side": SIDES[side], "other": SIDES[1 - side]}
    return Finding(CarriedValueReplaced.code, SIDES[side], Verdict.SEMANTIC, (evidence,), given, facts)


def _filled(found: Copied) -> Finding:
    others = [call for call in found.made_of if call.index != found.own.index]
    evidence = Evidence(
        f"{found.copy.site} fills memory, that is read on, with what is made of {len(found.made_of)} earlier "
        f"value(s), the first by {others[0].site}; the reference goes on with what corresponds to {found.own.site}",
        {
            "copy": str(found.copy.site),
            "own": str(found.own.site),
            "made_of": [str(call.site) for call in found.made_of],
        },
    )
    facts = {"side": SIDES[1], "other": SIDES[0]}
    says = "the candidate goes on with values of other times (an average, an older copy), the reference with its latest"
    return Finding(CarriedValueReplaced.code, "copied", Verdict.SEMANTIC, (evidence,), found.given, facts, says=says)


def _remedy(finding: Finding) -> Remedy:
    return Remedy("Save everything that the run carries over, and restore all of it before it goes on.")


REGISTER = CarriedValueReplaced()
