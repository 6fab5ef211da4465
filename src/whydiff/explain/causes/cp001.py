"""CP001 fused-excess-precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import replayable
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._explained import number
from whydiff.numbers.metrics import is_integer
from whydiff.records import Cause, Evidence, Intervention, Lift, Payload, Remedy, Verdict

_OTHER_WAYS = (
    ("aot_eager", "traced and executed op by op (aot_eager)"),
    ("emulate-precision-casts", "compiled anew with every rounding in place (emulate_precision_casts)"),
)


class FusedExcessPrecision(CauseRule):
    """Compiled code keeps intermediate values wider than the program asks for.

    What it detects:
        A compiled program (`torch.compile`) whose results differ from those of its own ops executed one by
        one.

    Why it happens:
        A fused kernel holds intermediate bfloat16 or float16 values in float32 registers and rounds once at
        the end, where the uncompiled program rounds after every op. It also adds in another order.

    Evidence required:
        The plain run of a live side repeats itself and differs from its instrumented run, during which the
        compiler stands back; the number of differing elements, which of the two is nearer to the same
        program in float64, and what two other ways of compiling give.

    Look-alikes:
        PR002 and PR003 for a program that itself rounds elsewhere. ND001: a run that differs from itself.
        Ops recorded one by one agree here, so every other cause is silent. A capture at module level
        (``level="module"``) sees the compiled program's values.

    Example:
        A module, and the same module compiled by a backend that rounds only at the end.

    Remedy:
        Accept it (the compiled side is usually the more exact one), or compile with
        ``torch._inductor.config.emulate_precision_casts = True`` where both must agree.

    How it is verified:
        The candidate runs again uncompiled (``compile-as eager``); the outputs must become equal bit for
        bit. Needs a live candidate and PyTorch 2.6.

    References:
        PyTorch, torch._inductor.config ``emulate_precision_casts``; pytorch/pytorch issues on compiled
        bfloat16 against eager.
    """

    code = "CP001"
    name = "fused-excess-precision"

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per side that observing changed although it repeats itself."""
        for index, (side, trace) in enumerate((("reference", case.reference), ("candidate", case.candidate))):
            run, check = case.runs[index], trace.observer
            eager = Intervention("compile-as", side, "eager")
            changed = check.unchanged is False and check.deterministic is True
            if not changed or run is None or not run.supports(eager):
                continue
            found = _measured(case, side)
            if found is None:
                continue
            evidence = [found]
            if side == "candidate":
                evidence += _otherwise(case)
            yield Cause(
                code=self.code,
                name=self.name,
                site=f"the {side}",
                verdict=Verdict.PRECISION,
                evidence=tuple(evidence),
                remedy=Remedy(
                    "Accept it if the compiled side is nearer to float64; else compile with every rounding kept.",
                    "import torch._inductor.config\ntorch._inductor.config.emulate_precision_casts = True\n",
                ),
                interventions=(eager,) if side == "candidate" else (),
                reason="" if side == "candidate" else "the reference is the compiled side: swap the sides to prove it",
            )

    def example(self) -> tuple[Any, Any]:
        """A backend that carries everything out in float32 and rounds at the end."""
        import torch

        def rounds_at_the_end(graph: Any, _: Any) -> Any:
            def run(*args: Any) -> Any:
                wide = [x.float() if x.is_floating_point() else x for x in args]
                return [x.to(torch.bfloat16) if x.is_floating_point() else x for x in graph(*wide)]

            return run

        class Gated(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                y = torch.sigmoid(x) * x
                return torch.tanh(y) * y + x

        torch.manual_seed(0)
        x = torch.randn(4, 32, dtype=torch.bfloat16)
        model = Gated()
        compiled = torch.compile(model, backend=rounds_at_the_end)
        return lambda: model(x), lambda: compiled(x)


def _measured(case: Case, side: Any) -> Evidence | None:
    """How far the plain run is from the ops one by one, and which is nearer to float64."""
    trace = case.reference if side == "reference" else case.candidate
    if replayable(trace):
        return None
    compiled, other = (
        case.experiments.plain_outputs(side),
        case.experiments.plain_outputs("candidate" if side == "reference" else "reference"),
    )
    different = total = 0
    errors = [0.0, 0.0]
    try:
        exact = case.experiments.lifted(side, Lift("float64")).outputs
    except WhydiffError:
        exact = {}
    for slot, payload in compiled.items():
        one = other.get(slot)
        if one is None or is_integer(payload.dtype) or one.bits.shape != payload.bits.shape:
            continue
        different += int(np.count_nonzero(one.bits != payload.bits))
        total += payload.bits.size
        if slot in exact:
            errors = [e + _error(p, exact[slot]) for e, p in zip(errors, (payload, one), strict=True)]
    if not different:
        return None
    text = f"{different} of {total} output elements of the compiled {side} differ from those of the ops one by one"
    if any(errors):
        nearer = "compiled" if errors[0] < errors[1] else "uncompiled"
        text += f"; the {nearer} run is nearer to float64 (summed error {errors[0]:.2e} compiled, {errors[1]:.2e} not)"
    return Evidence(
        text, {"different": different, "elements": total, "error_compiled": errors[0], "error_uncompiled": errors[1]}
    )


def _error(payload: Payload, exact: Payload) -> float:
    return float(np.nansum(np.abs(number(payload) - number(exact))))


def _otherwise(case: Case) -> Iterator[Evidence]:
    """What other ways of compiling give."""
    for way, words in _OTHER_WAYS:
        intervention = Intervention("compile-as", "candidate", way)
        if not case.experiments.supports((intervention,)):
            continue
        try:
            outcome = case.experiments.try_out((intervention,))
        except WhydiffError as error:
            yield Evidence(f"{words}: it failed: {error.what}", {"way": way, "equal": False})
            continue
        result = "equals the reference bit for bit"
        if not outcome.equal:
            result = f"still differs by {outcome.mean_abs:.2e} on average"
        yield Evidence(f"{words}, the candidate {result}", {"way": way, "equal": outcome.equal})


REGISTER = FusedExcessPrecision()
