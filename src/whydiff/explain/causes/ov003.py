"""OV003 late-scaling."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

from whydiff.capturing.adapters import for_framework
from whydiff.explain.case import Case
from whydiff.explain.causes._range import RangeRule, alarms
from whydiff.explain.causes._range_put import Array, by_reads
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Cause, Intervention, Remedy, Trace


class LateScaling(RangeRule):
    """A product is stored in a narrow dtype at full size and scaled down only afterwards.

    What it detects:
        A matrix product whose stored result has little or no headroom and which the next operator multiplies
        by a number below one.

    Why it happens:
        Attention scores grow with the head size; ``softmax(q @ k / sqrt(d))`` stores ``q @ k`` first. A kernel
        that scales in its accumulator (``baddbmm(alpha=…)``, fused attention) never stores the large numbers, so
        scaling the operands instead gains nothing there.

    Evidence required:
        The dataflow (product, then scaling by one number), and the measured headroom in bits of the stored
        product and of the scaled one.

    Look-alikes:
        OV001: an overflow that nothing scales down. ``alpha`` inside the product is not late. A product with
        headroom to spare is left alone.

    Example:
        Scores of large queries and keys in float16, scaled after the product against scaled before.

    Remedy:
        Scale an operand first, or use a kernel that scales in its accumulator. The gain is exactly the factor.

    How it is verified:
        A live run is carried out again with the operand scaled and the later scaling left out; the headroom must
        grow by the factor. Between two recorded runs: the same operators in float32 must give finite numbers.

    References:
        bigscience-workshop/Megatron-DeepSpeed pull request 118; ``docs/tutorial/megatron.md`` (measured).
    """

    code = "OV003"
    name = "late-scaling"
    says = "a product is scaled down only after it was stored in a narrow dtype"
    alarms = ("late-scaling",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per product of the candidate that is scaled too late, tried with an operand scaled first and late."""
        for alarm in alarms(case, "late-scaling"):
            factor = float(alarm.data["factor"])
            yield by_reads(
                case,
                self.from_alarm(alarm),
                alarm,
                away=functools.partial(_scaled, case.candidate, factor),
                put=functools.partial(_scaled, case.reference, 1 / factor),
                words=("with its operand scaled first", "with its operand not yet scaled"),
            )

    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and its rewrite if it has one."""
        data = alarm.data
        factor, gain = float(data["factor"]), float(data["gain_bits"])
        sentence = (
            f"stored with {data['headroom_stored']:.1f} bits of headroom in {alarm.dtype} and then scaled by "
            f"{factor:.4g} at {data['scaled_at']}; scaled first it would have {data['headroom_scaled_first']:.1f}"
        )
        root = math.sqrt(factor)
        remedy = Remedy(
            f"Scale before the product (gains {gain:.1f} bits), or let the kernel scale in its accumulator.",
            f"# or {root:.6g} on both operands\nscores = (query * {factor:.6g}) @ key.transpose(-1, -2)",
            undoes="either",
        )
        rewrite = Intervention("scale-first", str(alarm.site), [data["scaled_at"], factor])
        return sentence, remedy, (rewrite,)

    def example(self) -> tuple[Any, Any]:
        """Scores whose product overflows float16, scaled first and scaled late."""
        import torch

        q = torch.linspace(-60, 60, 4 * 64).reshape(1, 4, 64).half()
        return (lambda: torch.bmm(q / 8, q.transpose(1, 2))), (lambda: torch.bmm(q, q.transpose(1, 2)) / 8)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Products that overflow because their operands are larger; the reference scales late too."""
        import torch

        q = torch.linspace(-60, 60, 4 * 64).reshape(1, 4, 64).half()

        def scores(x: Any) -> Any:
            return torch.bmm(x, x.transpose(1, 2)) / 8

        yield (lambda: scores(q / 16)), (lambda: scores(q))
        yield (lambda: torch.bmm(q / 64, q.transpose(1, 2) / 16)), (lambda: scores(q))


def _scaled(trace: Trace, factor: float, call: int, position: int, value: Array) -> Array | None:
    """The left operand of a product, times a factor."""
    at = for_framework(trace.framework).places(trace.calls[call].site.op).get("left")
    args, named = trace.calls[call].arguments
    given = None if at is None else named.get(at[1], args[at[0]] if at[0] is not None and at[0] < len(args) else None)
    left = given["$read"] if isinstance(given, dict) else 0
    return value * factor if position == left else None


REGISTER = LateScaling()
