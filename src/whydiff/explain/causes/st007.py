"""ST007 carried-value-replaced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._looks import leaves
from whydiff.explain.causes._state import listed
from whydiff.explain.keys import draws
from whydiff.records import Cause, Evidence, Remedy, Verdict


class CarriedValueReplaced(CauseRule):
    """A run goes on with values that it did not compute, where the other one goes on with what it has computed so far.

    What it detects:
        A value that one side takes up from its own earlier ops, and the other side reads from outside of them: a moving
        average that begins anew, moments that are zero again, a buffer that a checkpoint wrote over.

    Why it happens:
        A run was resumed and not everything was restored: the average of the weights, an optimizer's state that a
        library keeps apart, a scaler, counters. What is missing is made anew, or filled with something near it.

    Evidence required:
        The ops that only one side has before the value is taken up read nothing but tensors from outside (a checkpoint,
        weights, constants) or nothing at all, and the other side's value was made by its ops.

    Look-alikes:
        TR002 if a torch optimizer begins a step with other state. IN001 if both sides read it from outside. FO007 if the
        ops work on a value that was computed. MD002 if they draw. IN002 and IN003 for positions and masks.

    Example:
        A moving average that is copied from the first value after two rounds.

    Remedy:
        Save what a run carries over, and restore all of it.

    How it is verified:
        By replay: the reference's value takes its place (``replace-op``), and the outputs must become equal bit for bit.
        That is the reference's own value, so it is located, never confirmed.

    References:
        PyTorch, Saving and loading a general checkpoint; optax, checkpointing of optimizer states.
    """

    code = "ST007"
    name = "carried-value-replaced"
    says = "the {side} goes on with values it did not compute, the {other} with its own"
    yields_to = ("MD002", "TR002", "IN002")
    precedes = ("FO007", "FO008")

    def explain(self, view: View) -> Finding | None:
        """Ops of one side that make a value from nothing that was computed."""
        counts = [len(calls) for calls in view.seen.calls]
        if view.origin.kind != "region" or min(counts) or not max(counts) or view.one_function:
            return None
        side = int(counts[1] > 0)
        computed, trace = view.seen.results[1 - side], (view.case.reference, view.case.candidate)[side]
        calls, reads = view.seen.calls[side], [event for event in view.seen.reads[side] if event.storage >= 0]
        if computed.producer < 0 or any(draws(trace, call) for call in calls):
            return None
        if not all(leaves(trace, event) for event in reads):
            return None
        sides = ("reference", "candidate")
        names = {leaf.name for event in reads for leaf in leaves(trace, event)}
        origin = (view.origin.candidate_site, view.origin.site)[side]
        evidence = Evidence(
            f"the {sides[side]} takes what {listed(call.site.op for call in calls)} made of "
            f"{listed(sorted(names)) or 'nothing'} where the {sides[1 - side]} takes what {origin.at('')} made",
            {"side": sides[side], "ops": [str(call.site) for call in calls], "read": sorted(names)},
        )
        facts = {"side": sides[side], "other": sides[1 - side]}
        return Finding(self.code, sides[side], Verdict.SEMANTIC, (evidence,), view.replace_op(), facts)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side."""
        return causes_of(case, self.code, self.name, _remedy)

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
        """A step on the value itself, another first value, another weight of the average."""
        import torch

        torch.manual_seed(0)
        x, first, other = torch.randn(4, 8), torch.randn(8), torch.randn(8)

        def run(begin: Any, share: float = 0.8, halved: bool = False) -> Any:
            average = begin * 1.0
            for row in x:
                average = share * (average.relu() if halved else average) + torch.tanh(row)
            return average

        yield (lambda: run(first)), (lambda: run(first, halved=True))
        yield (lambda: run(first)), (lambda: run(other))
        yield (lambda: run(first)), (lambda: run(first, 0.9))


def _remedy(finding: Finding) -> Remedy:
    return Remedy("Save everything that the run carries over, and restore all of it before it goes on.")


REGISTER = CarriedValueReplaced()
