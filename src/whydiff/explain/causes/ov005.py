"""OV005 underflow."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

from whydiff.explain.causes._range import RangeRule, widen, wider
from whydiff.numbers.ranges import limits
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Intervention, Remedy


class Underflow(RangeRule):
    """Numbers that are not zero become zero because the format has none so small.

    What it detects:
        A scaling or cast after which most of the non-zero numbers are zero; and a sum or clamp whose constant, there
        to keep the result from zero, is itself rounded to zero, where the result then holds zeros.

    Why it happens:
        float16's smallest number is 6e-8, and half of it and less becomes zero. Squares of gradients, probabilities,
        and epsilons such as Adam's 1e-8 are below. What divides by them then gives inf or NaN.

    Evidence required:
        The share of non-zero inputs that came out as zero, or the constant, the smallest number of the format and how
        many zeros the result holds.

    Look-alikes:
        OV001, OV002: the numbers are too large, and one divided by infinity, and all that this is multiplied with, is zero.
        A ReLU or a mask makes zeros too, but from no scaling. A constant that the
        format holds, or a result without zeros, is left alone.

    Example:
        Adam's update where the second moment is still zero, in float32 and in float16.

    Remedy:
        Keep the constant, and what it is added to, in float32; or choose a constant that the format holds. Gradients:
        scale the loss.

    How it is verified:
        The recorded operators are executed again with every narrower number carried in float32 (in float64 where
        float32 is what fails): the numbers must not vanish there. A constant is in addition exchanged in the running
        program for the smallest normal number of the format: neither zeros there nor an overflow of what divides by
        them may be left.

    References:
        IEEE 754-2019; Micikevicius et al., Mixed precision training, arXiv:1710.03740, section 3.2 (loss scaling).
    """

    code = "OV005"
    name = "underflow"
    says = "numbers that are not zero become zero in this dtype"
    alarms = ("underflow",)

    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and its rewrite if it has one."""
        data = alarm.data
        if "constant" in data:
            sentence = (
                f"the constant {data['constant']:.3g} is zero in {alarm.dtype} (smallest number "
                f"{data['smallest']:.3g}); {data['zeros']} of {data['elements']} results are zero"
            )
            larger = limits(alarm.dtype).smallest_normal
            remedy = Remedy(
                f"Add it in {wider(alarm)}, or choose a constant of at least {larger:.3g} here.",
                f"denominator = values.float().sqrt() + {abs(data['constant']):.3g}\n",
            )
            tried = [Intervention("larger-constant", str(alarm.site), larger)]
        else:
            kept = f"smallest kept {data['smallest_kept']:.3g}" if isfinite(data["smallest_kept"]) else "none is kept"
            sentence = f"{100 * data['share_lost']:.0f} % of the non-zero numbers become zero in {alarm.dtype} ({kept})"
            remedy = Remedy(
                "Carry this operator's result in float32 or bfloat16, or scale its inputs up (loss scaling)."
            )
            tried = []
        return sentence, remedy, (*tried, widen(alarm))

    def example(self) -> tuple[Any, Any]:
        """A step of Adam, in float32 and in float16."""
        import torch

        gradient, second = torch.full((8,), 1e-5), torch.zeros(8)

        def update(g: Any, v: Any) -> Any:
            return g / (v.sqrt() + 1e-8)

        return (lambda: update(gradient, second)), (lambda: update(gradient.half(), second.half()))

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Numbers that vanish because they are smaller, in one dtype; and a reference whose numbers every dtype holds."""
        import torch

        gradient = torch.full((8,), 1e-2)

        def update(g: Any, by: float) -> Any:
            return 1 / (g * by)

        yield (lambda: update(gradient.half(), 0.5)), (lambda: update(gradient.half(), 1e-7))
        yield (lambda: update(gradient, 0.5)), (lambda: update(gradient.half(), 1e-7))


REGISTER = Underflow()
