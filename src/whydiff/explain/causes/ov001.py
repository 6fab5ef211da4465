"""OV001 overflow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._range import RangeRule, alarms, proven, widen
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Cause, Intervention, Remedy


class Overflow(RangeRule):
    """An operator gets finite numbers and writes infinity or NaN, because its dtype cannot hold the result.

    What it detects:
        The first operator at which a non-finite value appears although everything that it read was finite and
        no infinity was asked for by an argument.

    Why it happens:
        float16 ends at 65504 and float8_e4m3fn at 448. Activations of large models, squares, sums of many terms
        and divisions by an epsilon that rounds to zero go beyond.

    Evidence required:
        Finite inputs, non-finite outputs, counted in one pass; and the same operator on the same inputs in
        float64: its largest magnitude, and which formats would hold it.

    Look-alikes:
        OV002: the infinity is removed again by a clamp. OV003: the product would have been scaled down right
        after it was stored. OV004: NaN from rows that are masked throughout. OV005: a denominator vanished. A
        mask of minus infinity that the program writes on purpose is no overflow.

    Example:
        A square of 300 in float16 against the same in float32.

    Remedy:
        Carry this operator's result in bfloat16 or float32, or scale its inputs.

    How it is verified:
        The recorded operators are executed again with every narrower number carried in float32; the site's
        numbers must be finite.

    References:
        IEEE 754-2019; Micikevicius et al., Mixed precision training, arXiv:1710.03740.
    """

    code = "OV001"
    name = "overflow"
    says = "an op makes infinity or NaN of finite numbers: its dtype cannot hold them"
    alarms = ("overflow",)

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per operator of the candidate that overflows while the reference's does not."""
        taken = {str(alarm.site) for alarm in alarms(case, "late-scaling")}
        hidden = any(True for _ in alarms(case, "hidden"))  # then OV002 tells the whole story
        for alarm in alarms(case, "overflow"):
            if str(alarm.site) not in taken and not hidden and not alarm.data.get("of_vanished_numbers"):
                yield proven(case, self.from_alarm(alarm), alarm)

    def told(self, alarm: Alarm) -> tuple[str, Remedy, tuple[Intervention, ...]]:
        """What was measured, the remedy, and its rewrite if it has one."""
        data = alarm.data
        true = data.get("true_largest")
        needed = f"; in float64 the largest is {true:.4g}" if isinstance(true, float) else ""
        sentence = (
            f"finite inputs (largest {data.get('largest_input', 0.0):.4g}), {data.get('infs', 0)} inf and "
            f"{data.get('nans', 0)} NaN of {data.get('elements', 0)} numbers in {alarm.dtype}{needed}"
        )
        fits = data.get("fits")
        text = (
            f"Carry the result of this operator in {fits.split(', ')[-1] if fits else 'float32'}, or scale its inputs."
        )
        return sentence, Remedy(text), (widen(alarm.site),)

    def example(self) -> tuple[Any, Any]:
        """The same square in float32 and in float16."""
        import torch

        x = torch.tensor([1.0, 200.0, 300.0])
        return (lambda: x * x), (lambda: x.half() * x.half())

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Numbers that overflow because they are larger, in one dtype; and a reference whose numbers every dtype holds."""
        import torch

        x = torch.tensor([1.0, 200.0, 300.0])
        yield (lambda: x.half() * x.half()[0]), (lambda: x.half() * x.half())
        yield (lambda: (x / 100) * (x / 100)), (lambda: x.half() * x.half())


REGISTER = Overflow()
