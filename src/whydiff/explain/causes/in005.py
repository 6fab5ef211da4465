"""IN005 result-overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._overwritten import overwritten
from whydiff.explain.causes._switched import causes_of_switches
from whydiff.explain.sides import SIDES
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict


class ResultOverwritten(CauseRule):
    """What one side returns, or still needs, is written into after it was made.

    What it detects:
        A value that a run returns or reads later, and that an op in between changed in place, while the other run
        keeps it as it was made (as a copy, or because its op writes into memory of its own).

    Why it happens:
        An activation with ``inplace=True`` changes the features that are returned beside the logits; a recurrent state
        is updated in place and the same tensor is appended at every step; an output buffer is used again for the
        next batch; a view was taken for a copy.

    Evidence required:
        One side reads memory that another op had written before, at the counterpart of the call whose value the
        other side reads; an op in between changes that memory in place. The other side has a copy in the way, or the
        same op with memory of its own.

    Look-alikes:
        FO001 and FO008 if the op in place is another function, and nobody needs what was there before. FO003 and FO007 if
        a step is left out that changes numbers: what it writes is for nobody else, and the other side has no such op
        there. IN004 if another run's value is read that nobody overwrote.

    Example:
        A state that is updated in place is collected at every step, with and without a copy.

    Remedy:
        Return a copy (``clone()``), or do not write in place.

    How it is verified:
        By replay: what is read is what the call had written, as it was then (``read-as-written``); the outputs must
        become equal bit for bit. In the other direction the side that keeps the value reads what was written last in its
        place (``read-from``), if it has a counterpart. A setting that chooses the op in place is set back.

    References:
        PyTorch, autograd mechanics, in-place operations; torch.nn.ReLU (inplace).
    """

    code = "IN005"
    name = "result-overwritten"
    says = "a value is written over after it was returned"
    precedes = ("IN004", "FO", "PR", "TR")

    def explain(self, view: View) -> Finding | None:
        """Memory that one side writes again before it is read."""
        case, found = view.case, overwritten(view.case, view.origin.calls)
        if found is None:
            return None
        side, writer = found.side, found.writer
        name, other = SIDES[side], SIDES[1 - side]
        read = found.reads[0][0]
        evidence = Evidence(
            f"in the {name} {read.site} looks at the memory that {found.made.site} wrote, and {writer.site} writes into it "
            f"before; the {other} still reads there what {found.made.site} made",
            {"side": name, "made": str(found.made.site), "overwritten_by": str(writer.site), "read": str(read.site)},
        )
        steps = tuple(
            Intervention("read-as-written", str(read.site), str(written.site)) for read, written in found.reads
        )
        away, put = (steps, ()) if side else (case.experiments.mirrored(steps, on="reference") or (), steps)
        return Finding(
            self.code,
            (name, writer.target),
            Verdict.SEMANTIC,
            (evidence,),
            away,
            {"side": name},
            put_in=put,
            says=f"memory is shared in the {name}: {writer.site.op} writes over a value that is read later",
        )

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per op that overwrites, and per setting that chooses such ops."""
        yield from causes_of(
            case,
            self,
            lambda finding: Remedy(
                f"Keep a copy in the {finding.facts['side']} of what is returned or needed later, or do not write in place.",
                "states.append(state.clone())\n",
                undoes=finding.facts["side"],
            ),
        )
        yield from causes_of_switches(case, self, "overwrites")

    def example(self) -> tuple[Any, Any]:
        """A state that is updated in place, collected with and without a copy."""
        import torch

        torch.manual_seed(0)
        cell, x = torch.nn.RNNCell(6, 4), torch.randn(3, 6)

        def run(kept: bool) -> Any:
            state, states = torch.zeros(3, 4), []
            with torch.no_grad():
                for step in range(3):
                    state.copy_(cell(x * (step + 1), state))
                    states.append(state.clone() if kept else state)
            return states

        return lambda: run(True), lambda: run(False)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another function, or factor, in place; the last state returned where the first is meant, of copies."""
        import torch

        torch.manual_seed(0)
        layer, x = torch.nn.Linear(6, 6), torch.randn(3, 6)

        def in_place(factor: float) -> Any:
            with torch.no_grad():
                return layer(x).mul_(factor)

        def one_of(which: int) -> Any:
            states = [x]
            with torch.no_grad():
                for _ in range(3):
                    states.append(torch.tanh(layer(states[-1])))
            return states[which]

        def activated(sigmoid: bool) -> Any:
            with torch.no_grad():
                return layer(torch.sigmoid_(layer(x)) if sigmoid else torch.relu(layer(x)))

        yield lambda: activated(False), lambda: activated(True)
        yield lambda: in_place(0.5), lambda: in_place(0.25)
        yield lambda: one_of(1), lambda: one_of(3)


REGISTER = ResultOverwritten()
