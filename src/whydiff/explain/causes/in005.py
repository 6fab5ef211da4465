"""IN005 result-overwritten."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.capturing.adapters import Role, plays
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._flow import readers_of
from whydiff.explain.causes._looks import leaves
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Remedy, Verdict


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
        The candidate reads memory that another op had written before, at the counterpart of the call whose value the
        reference reads; an op in between changes that memory in place; a copy may stand in the way in the reference.

    Look-alikes:
        ST006 if a module's setting chooses the op in place. FO003 and FO007 if a step is left out that changes numbers: what
        it writes is for nobody else, and the reference has no such op there. IN004 if another run's value is read that
        nobody overwrote.

    Example:
        A state that is updated in place is collected at every step, with and without a copy.

    Remedy:
        Return a copy (``clone()``), or do not write in place.

    How it is verified:
        By replay: what is returned is what the call had written, as it was then (``read-as-written``); the outputs must
        become equal bit for bit. In the other direction the reference returns what was written last in its
        place (``read-from``), if it has a counterpart.

    References:
        PyTorch, autograd mechanics, in-place operations; torch.nn.ReLU (inplace).
    """

    code = "IN005"
    name = "result-overwritten"
    says = "a value is written over after it was returned"
    precedes = ("IN004", "FO", "PR", "TR")

    def explain(self, view: View) -> Finding | None:
        """Memory that was written again before it is read."""
        case = view.case
        ours, theirs = case.reference.calls[view.origin.calls[0]], case.candidate.calls[view.origin.calls[1]]
        made = _made(case, ours)
        if made is None or not theirs.mutates or theirs.index <= made.index:
            return None
        given = [event for i, event in enumerate(theirs.reads) if i not in theirs.mutates]
        if given and all(leaves(case.candidate, event) for event in given):
            return None  # a checkpoint is loaded: ST007
        found = [read for read in readers_of(case, ours.index, theirs.index) if _wrote(made, read) is not None]
        if not found or not any(theirs.reads[i].storage == found[0].storage for i in theirs.mutates):
            return None
        if not _is_of_use(case, theirs, found):
            return None  # nothing else takes up what it writes, and the reference has no such op: a step of one side
        written = _wrote(made, found[0])
        assert written is not None
        evidence = Evidence(
            f"{found[0].site} is what {made.site} wrote, and {theirs.site} writes into it before; "
            f"the reference keeps it as {made.site} made it",
            {"made": str(made.site), "overwritten_by": str(theirs.site), "read": str(found[0].site)},
        )
        steps = tuple(Intervention("read-as-written", str(read.site), str(written.site)) for read in found)
        return Finding(self.code, str(theirs.target), Verdict.SEMANTIC, (evidence,), steps)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per op that overwrites."""
        return causes_of(
            case,
            self.code,
            self.name,
            lambda finding: Remedy(
                "Keep a copy of what is returned or needed later, or do not write in place.",
                "states.append(state.clone())\n",
                is_take_away=True,
            ),
        )

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
        """An op in place that computes another function; the last state returned where the first is meant, of copies."""
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

        yield lambda: in_place(0.5), lambda: in_place(0.25)
        yield lambda: one_of(1), lambda: one_of(3)


def _is_of_use(case: Case, theirs: Call, found: list[Event]) -> bool:
    """Whether what is written over is meant for others than those that should not read it, or the reference writes it too."""
    if any(pair.candidate == theirs.index for pair in case.alignment.pairs):
        return True
    mine = {event.site for event in found}
    later = (event for call in case.candidate.calls[theirs.index + 1 :] for event in call.reads)
    return any(event.producer == theirs.index and event.site not in mine for event in later)


def _made(case: Case, ours: Call) -> Call | None:
    """The candidate's counterpart of the call that made what the reference reads, before it was copied there."""
    partner = {pair.reference: pair.candidate for pair in case.alignment.pairs}
    while (
        ours.index not in partner and len(ours.reads) == 1 and plays(case.reference.framework, ours.site.op, Role.CAST)
    ):
        if ours.reads[0].producer < 0:
            return None
        ours = case.reference.calls[ours.reads[0].producer]
    return case.candidate.calls[partner[ours.index]] if ours.index in partner else None


def _wrote(made: Call, read: Event) -> Event | None:
    """What a call wrote in the memory that is read, if that is all of it."""
    return next((e for e in made.writes if e.storage == read.storage and e.spec.shape == read.spec.shape), None)


REGISTER = ResultOverwritten()
