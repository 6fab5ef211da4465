"""TR002 optimizer-state-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._impostors import resumed
from whydiff.explain.causes._optimizer import Step, lost_at, state_restored
from whydiff.records import Cause, Evidence, Remedy, Verdict
from whydiff.report.words import listed


class OptimizerStateDiffers(CauseRule):
    """The optimizer begins with other state: moments, momentum buffers, its count of steps.

    What it detects:
        State of an optimizer (every tensor and number it keeps for a parameter) that is not the same as a step begins,
        or that only one side has, although the optimizer's step before left the same: at the first step that both
        runs take, or where a run goes on from a checkpoint half-way. All of it is one cause, however many tensors.

    Why it happens:
        A run is resumed from the weights alone; ``optimizer.load_state_dict`` was left out or called on another
        optimizer; the parameters are in another order; state was moved, sharded or cast and not put back; the
        count of steps was reset, so that bias correction begins anew.

    Evidence required:
        The recorded look at the optimizer's state as the step begins, on either side: by parameter and name, with
        fingerprints. The two steps correspond because the data or the weights that the steps take up do.

    Look-alikes:
        TR003 if a hyperparameter differs (a scheduler that was not restored). ST001 if the weights differ when the
        step begins. State that differs at a later step only is a consequence of other gradients.

    Example:
        Adam goes on after two steps, with and without its moments.

    Remedy:
        Save ``optimizer.state_dict()`` in the checkpoint and load it before the next step.

    How it is verified:
        The candidate runs again, and its first common step begins with the reference's state (``restore-optimizer``);
        the outputs must become equal bit for bit. In the other direction the reference's begins with the
        candidate's, which may be none. Needs live runs.

    References:
        PyTorch, saving and loading a general checkpoint; Kingma and Ba, Adam, arXiv:1412.6980.
    """

    code = "TR002"
    name = "optimizer-state-differs"
    says = "the optimizer begins with other state"
    precedes = ("ST",)

    def explain_state(self, view: StateView) -> bool | None:
        """State that such a step looks at."""
        looked_at = {event.storage for step in lost_at(view.case) for event in step.calls[1].reads}
        return True if view.candidate.storage >= 0 and view.candidate.storage in looked_at else None

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause for all of it."""
        found = lost_at(case)
        if not found:
            return
        yield self.cause(
            site=str(found[0].calls[0].site),
            verdict=Verdict.SEMANTIC,
            evidence=tuple(_evidence(step) for step in found),
            remedy=Remedy(
                "Save the optimizer's state in the checkpoint and load it before the next step.",
                'checkpoint["optimizer"] = optimizer.state_dict()\n'
                'optimizer.load_state_dict(checkpoint["optimizer"])\n',
                undoes="either",
            ),
            interventions=state_restored(found),
        )

    def example(self) -> tuple[Any, Any]:
        """Two more steps with Adam's moments, and without."""
        return resumed(), resumed(moments=False)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Another learning rate, other weights, another gradient at the first of the two steps."""
        yield resumed(), resumed(rate=0.2)
        yield resumed(), resumed(weight=0.1)
        yield resumed(), resumed(loss=2.0)


def _evidence(step: Step) -> Evidence:
    ours, theirs = step.state
    names = list(dict.fromkeys(slot.partition(".")[2] for slot in step.differing))
    owners = {slot.partition(".")[0] for slot in step.differing}
    lacking = [side for side, state in (("reference", ours), ("candidate", theirs)) if not state]
    text = (
        f"{step.calls[0].site.scope} begins step {step.calls[0].site.step} of the reference and "
        f"{step.calls[1].site.step} of the candidate with other state, and nothing differed before: {listed(names)} of "
        f"{len(owners)} parameter(s)"
    )
    text += f"; the {lacking[0]} has none" if lacking else ""
    return Evidence(text, {"state": step.differing, "names": names, "lacking": lacking})


REGISTER = OptimizerStateDiffers()
