"""TR005 steps-out-of-order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._out_of_order import Moved, moved
from whydiff.records import Call, Cause, Evidence, Remedy, Verdict
from whydiff.report.words import listed


class StepsOutOfOrder(CauseRule):
    """Two steps that write in place are carried out in another order on one side than on the other.

    What it detects:
        Ops that both sides carry out on the same memory, as often and with the same arguments, but one side ahead of ops that
        see this memory and the other side behind them.

    Why it happens:
        An average of the weights is moved before the optimizer's step instead of behind it; weights are copied to another
        model, or a buffer is moved on, before they are read.

    Evidence required:
        All that has no counterpart at its turn is the same sequence of ops on both sides, writes into the same memory each
        time, and stands on different sides of a call that sees it.

    Look-alikes:
        TR004 if one side has the step less often; FO008 if a step works on another value, or with another argument, or if
        both steps change one value (clipping, and dividing by a loss's scale); IN005 if a value is read late that was
        meant to be kept.

    Example:
        An average that follows the weights, before and behind their update.

    Remedy:
        Carry out both in one order.

    How it is verified:
        By replay: the candidate's calls are carried out in the reference's order (``carry-out-as``) and nothing else is
        changed; the outputs must become equal bit for bit. In the other direction the reference follows the candidate's.

    References:
        PyTorch, torch.optim.swa_utils.AveragedModel (update_parameters is called behind the optimizer's step).
    """

    code = "TR005"
    name = "steps-out-of-order"
    yields_to = ("TR004",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """At most one cause: all that is carried out at other places."""
        found = moved(case)
        if found is not None:
            yield _cause(found)

    def example(self) -> tuple[Any, Any]:
        """An average before and behind the update."""
        return _averaged(), _averaged(early=True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another share of the average; early and with another share; the update left out once; other weights early."""
        yield _averaged(), _averaged(share=0.2)
        yield _averaged(), _averaged(early=True, share=0.2)
        yield _averaged(), _averaged(skips=1)
        yield _averaged(), _averaged(factor=2.0)


def _cause(found: Moved) -> Cause:
    ours, theirs = found.calls[0]
    ahead = theirs.index < found.past[1].index
    ops, other = listed(dict.fromkeys(_named(one) for _, one in found.calls)), _named(found.past[0])
    words = ("ahead of", "behind") if ahead else ("behind", "ahead of")
    evidence = Evidence(
        f"the candidate carries out {theirs.site} {words[0]} {found.past[1].site}, the reference {ours.site} {words[1]} "
        f"{found.past[0].site}; {len(found.calls)} calls are carried out at other places, on the same memory",
        {
            "reference": [str(one.site) for one, _ in found.calls],
            "candidate": [str(one.site) for _, one in found.calls],
        },
    )
    return Cause(
        code=StepsOutOfOrder.code,
        name=StepsOutOfOrder.name,
        site=str(theirs.site),
        verdict=Verdict.SEMANTIC,
        evidence=(evidence,),
        remedy=Remedy(f"Carry out {ops} and {other} in one order on both sides.", undoes="either"),
        interventions=found.interventions,
        says=f"the candidate carries out {ops} {words[0]} {other}, the reference {words[1]} it",
    )


def _named(call: Call) -> str:
    return f"{call.site.op} of {call.site.scope}" if call.site.scope else call.site.op


def _averaged(*, early: bool = False, share: float = 0.1, skips: int = -1, factor: float = 1.0) -> Any:
    """A weight and its average after four plain updates."""
    import torch

    torch.manual_seed(0)
    data, goal, start = torch.randn(8, 6), torch.randn(8, 2), torch.randn(6, 2)

    def run() -> Any:
        weight, average = start.clone(), start.clone()
        for step in range(4):
            gradient = data.T @ (torch.tanh(data @ weight) - goal)
            if early:
                average.lerp_(weight, share)
            if step != skips:
                weight.sub_(gradient * (0.01 * factor))
            if not early:
                average.lerp_(weight, share)
        return weight, average

    return run


REGISTER = StepsOutOfOrder()
