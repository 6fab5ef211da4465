"""OV002 clamped-overflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.causes._range import RangeRule, widen
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Intervention, Remedy


class ClampedOverflow(RangeRule):
    """An overflow's infinities are clamped to finite numbers, so that nobody sees them and the values are wrong.

    What it detects:
        An operator that reads the infinity or NaN of an earlier overflow and writes finite numbers of the same
        shape.

    Why it happens:
        Models that were trained in bfloat16 or float32 got a clamp so that float16 does not give NaN. The clamp
        keeps the run alive; the clamped numbers are not those that the model computed in training.

    Evidence required:
        The overflow (OV001's evidence) upstream of the operator, non-finite numbers in, finite ones out.

    Look-alikes:
        OV001: nothing hides the overflow. A clamp whose input never overflows is part of the model. A softmax that
        reads a mask of minus infinity hides nothing, for nothing overflowed.

    Example:
        A clamp of squares that float16 cannot hold, against float32.

    Remedy:
        Carry the operators before the clamp in float32 or bfloat16.

    How it is verified:
        The recorded operators are executed again with every narrower number carried in float32 (in float64 where
        float32 is what fails); what the clamp reads must be finite, and so must what it writes.

    References:
        huggingface/transformers#9295 (T5 in float16).
    """

    code = "OV002"
    name = "clamped-overflow"
    says = "an overflow is clamped to finite numbers, which are wrong"
    alarms = ("hidden",)

    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and its rewrite if it has one."""
        largest = alarm.data.get("largest_after", 0.0)
        sentence = f"non-finite numbers of an overflow go in, finite ones (largest {largest:.4g}) come out"
        remedy = Remedy(
            "Carry the operators before this one in float32 or bfloat16; the clamp then has nothing to hide."
        )
        return sentence, remedy, (widen(alarm),)

    def example(self) -> tuple[Any, Any]:
        """A clamp of squares in float32 and in float16."""
        import torch

        x = torch.tensor([1.0, 200.0, 300.0])

        def program(value: Any) -> Any:
            return (value * value).clamp(-6e4, 6e4) / 7

        return (lambda: program(x)), (lambda: program(x.half()))

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """What overflows before the clamp is larger, in one dtype; and a reference whose numbers every dtype holds."""
        import torch

        x = torch.tensor([1.0, 200.0, 300.0])

        def program(value: Any, other: Any) -> Any:
            return (value * other).clamp(-6e4, 6e4) / 7

        yield (lambda: program(x.half(), x.half()[0])), (lambda: program(x.half(), x.half()))
        yield (lambda: program(x / 100, x / 100)), (lambda: program(x.half(), x.half()))


REGISTER = ClampedOverflow()
