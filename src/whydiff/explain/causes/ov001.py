"""OV001 overflow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Finding, View, causes_of
from whydiff.explain.causes._range import RangeRule, alarms, proven, widen, wider
from whydiff.explain.sides import SIDES
from whydiff.numbers.metrics import is_integer, values
from whydiff.numbers.ranges.audit import Alarm
from whydiff.records import Cause, Evidence, Intervention, Remedy, Verdict


class Overflow(RangeRule):
    """An operator gets finite numbers and writes infinity or NaN, because its dtype cannot hold the result.

    What it detects:
        The first operator at which a non-finite value appears although everything that it read was finite and
        no infinity was asked for by an argument. Or whole numbers that wrap around in a narrower dtype on one side.

    Why it happens:
        float16 ends at 65504 and float8_e4m3fn at 448. Activations of large models, squares, sums of many terms
        and divisions by an epsilon that rounds to zero go beyond.

    Evidence required:
        Finite inputs, non-finite outputs, counted in one pass; and the same operator on the same inputs in
        float64: its largest magnitude, and which formats would hold it. Of whole numbers: every difference is a
        multiple of what the narrower dtype can count.

    Look-alikes:
        OV002: the infinity is removed again by a clamp. OV003: the product would have been scaled down right
        after it was stored. OV004: NaN from rows that are masked throughout. OV005: a denominator vanished. A
        mask of minus infinity that the program writes on purpose is no overflow.

    Example:
        A square of 300 in float16 against the same in float32.

    Remedy:
        Carry this operator's result in bfloat16 or float32, or scale its inputs.

    How it is verified:
        The recorded operators are executed again with every narrower number carried in float32 (in float64 where
        float32 is what fails); the site's numbers must be finite. Whole numbers: the values show where, and no
        experiment is made (located).

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
        for found in causes_of(case, self, _wrapped):
            yield replace(found, status="located", reason="the values show it; no op computes whole numbers wider here")

    def explain(self, view: View) -> Finding | None:
        """Whole numbers that wrap around on one side: they differ by multiples of what its dtype can count."""
        dtypes = [event.spec.dtype for event in view.seen.results]
        if view.seen.results[0].spec.shape != view.seen.results[1].spec.shape or not all(map(is_integer, dtypes)):
            return None
        bits = [np.dtype(dtype).itemsize * 8 for dtype in dtypes]
        if bits[0] == bits[1] or "bool" in dtypes:
            return None
        ours, theirs = (values(one.bits, one.dtype).astype(np.int64).reshape(-1) for one in view.seen.outputs)
        apart, side = ours - theirs, int(bits[1] < bits[0])  # of 64 bits: up to multiples of 2**64, which are such, too
        wrapped = int(np.count_nonzero(apart))
        if not wrapped or np.any(np.remainder(apart, 1 << min(bits))):
            return None
        name, other = SIDES[side], SIDES[1 - side]
        wide = (ours, theirs)[1 - side]
        evidence = Evidence(
            f"{wrapped} of {apart.size} whole numbers wrap around in {dtypes[side]} in the {name}: they lie multiples of "
            f"{2 ** min(bits)} from the {other}'s, which reach from {wide.min()} to {wide.max()}",
            {"side": name, "dtype": dtypes[side], "wrapped": wrapped, "elements": apart.size},
        )
        return Finding(
            self.code,
            (name, dtypes[side]),
            Verdict.UNSTABLE,
            (evidence,),
            (),
            {"side": name, "narrow": dtypes[side], "wide": dtypes[1 - side]},
            says=f"whole numbers wrap around in {dtypes[side]} in the {name}",
        )

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
        text = f"Carry the result of this operator in {fits.split(', ')[-1] if fits else wider(alarm)}, or scale its inputs."
        return sentence, Remedy(text), (widen(alarm),)

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


def _wrapped(finding: Finding) -> Remedy:
    facts = finding.facts
    return Remedy(
        f"Convert to {facts['wide']} before this operator in the {facts['side']}: {facts['narrow']} wraps around."
    )


REGISTER = Overflow()
