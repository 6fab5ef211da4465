"""ST001 parameter-differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView
from whydiff.explain.causes._differs import causes, count
from whydiff.explain.causes._impostors import changed, other_activation
from whydiff.explain.causes._remedy import copy_over, reachable
from whydiff.explain.causes._state import bundles
from whydiff.explain.causes._traded import causes_of_trades, left
from whydiff.records import Cause, Remedy


class ParameterDiffers(CauseRule):
    """The two sides hold other weights.

    What it detects:
        Parameters that both sides have, whose bits, dtype or shape differ, and that no cast (ST003) and
        no lost tie (ST005) explains. One changed bit in one weight is enough. Up to eight tensors are
        separate causes, each with its own experiment; more are one cause that names them all. So are those of
        other shapes, of which none can be put back alone, and those of modules that hold each other's (another order).

    Why it happens:
        Another checkpoint or revision; a checkpoint key that did not match, so that a tensor kept its
        random initial values; a conversion script that transposed, fused or scaled a weight; a
        fine-tuned or merged adapter on one side only; an optimizer step between the two runs.

    Evidence required:
        The fingerprints of the tensor at the beginning of the two runs differ. Where the values were
        kept: how many elements differ, the largest absolute difference, the largest difference in units
        in the last place, and whether one side is a constant multiple of the other.

    Look-alikes:
        ST003 if the candidate equals the reference rounded to a narrower dtype, element for element.
        ST005 if only one side ties the tensor to another. ST002 if it is a buffer. If (nearly) all
        parameters differ, the checkpoint is another one; look at the loading code, not at a layer.

    Example:
        One weight of one layer is the next float32 number.

    Remedy:
        Load the same file on both sides and look at the loader's list of missing and unexpected keys.

    How it is verified:
        The candidate runs again with the reference's tensor in its place (``restore-state``); the
        outputs must become equal bit for bit, or the origins that read the tensor must vanish. Beside a
        cast of the whole side it is given in the dtype that the candidate holds (``restore-values``), and
        proven together with the cast (PR002). A tensor
        that changes nothing on this input is called inert.

    References:
        Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.1 (units in the last
        place).
    """

    code = "ST001"
    name = "parameter-differs"
    yields_to = ("ST003", "ST004", "ST005")

    def explain_state(self, view: StateView) -> str | None:
        """A parameter."""
        return view.reference.role if view.reference.role == "parameter" else None

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per differing parameter, or one for all of them if they are many; one for modules that trade theirs."""
        yield from causes_of_trades(case, self.code, self.name, parameters=True)
        for bundle in bundles(left(case, self.code)):
            first = (
                "Build both sides with the same sizes"
                if bundle[0].reshaped
                else "Load the same checkpoint on both sides"
            )
            remedy = Remedy(
                f"{first}, or copy the reference's tensors over.",
                copy_over(case, reachable(case, bundle)),
                undoes="either",
            )
            yield from causes(case, self, bundle, remedy, "parameters", count(case, "parameter"))

    def example(self) -> tuple[Any, Any]:
        """One weight of two equal models is one unit in the last place larger."""
        import copy

        import torch

        torch.manual_seed(0)
        reference: Any = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        candidate = copy.deepcopy(reference)
        with torch.no_grad():
            weight = candidate[2].weight
            weight[1, 3] = torch.nextafter(weight[1, 3], weight.new_tensor(torch.inf))
        x = torch.randn(4, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """A weight that was rounded, a tie that was lost, a weight that nothing reads beside another activation."""

        def rounded(candidate: Any) -> None:
            candidate.linear.weight.copy_(candidate.linear.weight.bfloat16())

        def untied(candidate: Any) -> None:
            candidate.head.weight = type(candidate.head.weight)(candidate.embed.weight * 1.5)

        def unread(candidate: Any) -> None:
            candidate.unread.add_(1.0)
            other_activation(candidate)

        yield changed(rounded)
        yield changed(untied, tied=True)
        yield changed(unread)


REGISTER = ParameterDiffers()
