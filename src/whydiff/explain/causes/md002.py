"""MD002 rng-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._state import listed
from whydiff.records import Call, Cause, Evidence, Remedy, Trace, Verdict


class RngDiffers(CauseRule):
    """Random numbers are drawn on one side only, or from another state of the generator.

    What it detects:
        An origin whose ops draw random numbers on one side and not on the other, although no module's mode
        differs; or on both sides, with equal arguments, from other generator states.

    Why it happens:
        ``F.dropout(x, p)`` acts in evaluation mode too, because its ``training`` defaults to true; a
        recomputed block (activation checkpointing) does not restore the generator's state; one rank or one
        side draws once more than the other before.

    Evidence required:
        The recorded ops that draw, and the recorded state of the generator before each.

    Look-alikes:
        MD001 if a module's training flag differs where the numbers are drawn; ST006 if the rate differs.
        ND001: a run that differs from itself.

    Example:
        Dropout by the functional form, without the module's mode.

    Remedy:
        Pass ``training=self.training``, or seed both sides alike right before the op.

    How it is verified:
        By replay: the reference's ops work on the candidate's inputs (``replace-op``); the outputs must
        become equal bit for bit.

    References:
        PyTorch, torch.nn.functional.dropout; torch.utils.checkpoint, ``preserve_rng_state``.
    """

    code = "MD002"
    name = "rng-differs"
    precedes = ("FO", "IN", "PR", "TR")

    def explain(self, view: View) -> Finding | None:
        """Draws on one side only, or from another state."""
        drawn = [[call for call in calls if call.rng] for calls in view.seen.calls]
        if not any(drawn) or _mode_differs(view.case, [call for calls in drawn for call in calls]):
            return None
        ours, theirs = drawn
        if not ours or not theirs:
            side = "candidate" if theirs else "reference"
            names = [str(call.site) for call in ours + theirs]
            text = f"only the {side} draws random numbers here: {listed(names)}; no module's mode differs"
            evidence = Evidence(text, {"side": side, "ops": names})
            key = side
        else:
            traces = (view.case.reference, view.case.candidate)
            states = [_state(trace, calls[0]) for trace, calls in zip(traces, drawn, strict=True)]
            same_ops = [c.arguments for c in ours] == [c.arguments for c in theirs]
            if None in states or states[0] == states[1] or not same_ops:
                return None
            key = "state"
            evidence = Evidence(
                f"both sides draw at {ours[0].site}, from other states of the generator",
                {"reference": str(ours[0].site), "candidate": str(theirs[0].site)},
            )
        return Finding(self.code, key, Verdict.SEMANTIC, (evidence,), view.replace_op(), {"key": key})

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that draws alone, one for other states."""
        return causes_of(case, self.code, self.name, _remedy)

    def example(self) -> tuple[Any, Any]:
        """Dropout that acts in evaluation mode."""
        import torch

        torch.manual_seed(0)
        linear, x = torch.nn.Linear(8, 8).eval(), torch.randn(4, 8)

        def run(training: bool) -> Any:
            return linear(torch.nn.functional.dropout(torch.tanh(x), 0.25, training=training))

        return lambda: run(False), lambda: run(True)


def _mode_differs(case: Case, calls: list[Call]) -> bool:
    changed = [path.rpartition(".")[0] for path in case.scalar_changes if path.rpartition(".")[2] == "training"]
    scopes = {name for call in calls for name in (call.site.scope, case.rename(call.site.scope))}
    return any(not path or s == path or s.startswith(path + ".") for path in changed for s in scopes)


def _state(trace: Trace, call: Call) -> bytes | None:
    payload = trace.payload(call.rng)
    return None if payload is None else payload.bits.tobytes()


def _remedy(finding: Finding) -> Remedy:
    if finding.facts["key"] == "state":
        return Remedy("Draw from the same state on both sides: seed right before, or restore the generator's state.")
    return Remedy(
        "Draw on both sides or on neither: pass the module's mode on.", "F.dropout(x, p, training=self.training)\n"
    )


REGISTER = RngDiffers()
