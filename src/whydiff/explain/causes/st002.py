"""ST002 buffer-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._differs import causes, count
from whydiff.explain.causes._impostors import changed, other_activation
from whydiff.explain.causes._remedy import copy_over, reachable
from whydiff.explain.causes._state import Difference, bundles
from whydiff.explain.causes._traded import causes_of_trades, left
from whydiff.records import Cause, Remedy


class BufferDiffers(CauseRule):
    """The two sides hold another table, mask, running statistic or other state that is no parameter.

    What it detects:
        Buffers (saved with the model or not), plain tensor attributes of modules and tensors that a
        callable's closure holds, present on both sides, whose bits, dtype or shape differ, and that no
        cast (ST003) and no sign of uninitialised memory (ST004) explains.

    Why it happens:
        A table was computed with another formula, length or base (positions, rotary frequencies,
        relative biases, masks); running statistics moved because one side ran in training mode; a
        buffer that is not in the state dict was computed at another time, on another device or in
        another dtype; a hand-made cache.

    Evidence required:
        The fingerprints of the tensor at the beginning of the two runs differ. Where the values were
        kept: how many elements differ, the largest absolute difference, the largest difference in units
        in the last place, and whether one side is a constant multiple of the other.

    Look-alikes:
        ST003 if the values are the other side's, rounded. ST004 if one side looks like memory that
        nobody wrote. ST001 if it is a parameter. IN001 if it is an argument of the run.

    Example:
        A table of the candidate is scaled by 1.01.

    Remedy:
        Compute the tensor in the same way on both sides; a buffer that is not saved cannot be repaired
        by loading a checkpoint.

    How it is verified:
        The candidate runs again with the reference's tensor in its place (``restore-state``); the
        outputs must become equal bit for bit, or the origins that read the tensor must vanish. Beside a
        cast of the whole side it is given in the dtype that the candidate holds (``restore-values``), and
        proven together with the cast (PR002). A buffer
        that no operator reads is called inert.

    References:
        PyTorch, torch.nn.Module.register_buffer (persistent=False).
    """

    code = "ST002"
    name = "buffer-differs"
    says = "the candidate holds another table, mask or running statistic"
    yields_to = ("ST003", "ST004", "ST005")

    def explain_state(self, view: StateView) -> str | None:
        """State that is no parameter."""
        return view.reference.role if view.reference.role != "parameter" else None

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per differing buffer, or one for all of them if they are many."""
        yield from causes_of_trades(case, self.code, self.name, parameters=False)
        total = count(case, "buffer", "non_persistent_buffer", "attribute")
        for bundle in bundles(left(case, self.code)):
            remedy = Remedy(_text(bundle), copy_over(case, reachable(case, bundle)), undoes="either")
            yield from causes(case, self, bundle, remedy, "buffers and attributes", total)

    def example(self) -> tuple[Any, Any]:
        """A table that is no part of the state dict is one percent larger."""
        import copy

        import torch

        class Biased(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = torch.nn.Linear(8, 8)
                self.register_buffer("bias_table", torch.linspace(0.1, 1.7, 8), persistent=False)

            def forward(self, x: Any) -> Any:
                return self.linear(x) + self.bias_table

        torch.manual_seed(0)
        reference = Biased()
        candidate: Any = copy.deepcopy(reference)
        candidate.bias_table = candidate.bias_table * 1.01
        x = torch.randn(4, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A table that was rounded, a weight, a table that nothing reads beside another activation."""

        def rounded(candidate: Any) -> None:
            candidate.table = candidate.table.bfloat16().float()

        def weight(candidate: Any) -> None:
            candidate.linear.weight[0, 0] += 0.1

        def unread(candidate: Any) -> None:
            candidate.spare = candidate.spare + 1.0
            other_activation(candidate)

        yield changed(rounded)
        yield changed(weight)
        yield changed(unread)


def _text(bundle: tuple[Difference, ...]) -> str:
    unsaved = any(d.reference.role in ("non_persistent_buffer", "attribute") for d in bundle)
    why = " It is in no state dict, so loading a checkpoint does not repair it." if unsaved else ""
    rest = " To compare the rest, copy the reference's tensor over."
    return f"Compute it in the same way on both sides.{why}{rest}"


REGISTER = BufferDiffers()
