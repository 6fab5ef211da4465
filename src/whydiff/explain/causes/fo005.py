"""FO005 one-pass-variance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from whydiff.capturing.adapters import Executor, Role, executor_of, for_framework
from whydiff.errors import WhydiffError
from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Array, Finding, PlaceRule, View, number
from whydiff.explain.causes._range import alarmed
from whydiff.numbers.ranges.audit import Alarm
from whydiff.numbers.tolerance import CANCELLED_SHARE, ROUNDING_LEVEL, UNIT_ROUNDOFF
from whydiff.pair.replay import replay
from whydiff.records import Call, Cause, Event, Evidence, Intervention, Payload, Remedy, Verdict

_CODE = "variance = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)\n"
_DEEP = 3
_MOST = 64


@dataclass(frozen=True, slots=True)
class OnePass:
    """A variance that a program computes as the mean of squares minus the square of the mean.

    Attributes:
        side: 0 the reference, 1 the candidate.
        call: the subtraction.
        span: calls between the values and the subtraction, both ends included.
        lost: bits of the most that the subtraction cancels, of ``bits``.
        bits: significant bits of the dtype.
        elements: values per variance.
    """

    side: int
    call: int
    span: tuple[int, ...]
    lost: float
    bits: float
    elements: int


class OnePassVariance(PlaceRule):
    """One side computes a variance as E[x²] − E[x]², the other from the deviations.

    What it detects:
        A subtraction whose operands are the mean of squares and the square of the mean of the same values, on
        one side only, at an origin.

    Why it happens:
        The formula needs one pass over the data, so hand-written and fused norms use it. In exact arithmetic
        both are equal; where the mean is large against the spread, almost all digits cancel, and the result
        can even be negative.

    Evidence required:
        By replay: the first operand equals the mean of x², the second the squared mean of x, computed in
        float64 from the recorded x. The bits that the subtraction cancels are measured.

    Look-alikes:
        FO002: an epsilon differs. OR001: both sides use one formula and sum in another order. A variance over
        n − 1 instead of n is another function also in float64.

    Example:
        A norm written out in both ways, on values around 20.

    Remedy:
        Subtract the mean first, or use the framework's variance; Welford's update if one pass is needed.

    How it is verified:
        By replay: the other formula takes its place on the candidate's inputs (``replace-op``); the outputs
        must become equal bit for bit. The verdict is rounding, and unstable if more than half of the digits
        cancel. In a range audit the program is run again with the variance from the deviations in its place, and both
        are measured against float64.

    References:
        Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, The American Statistician
        37(3), 1983; Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 1.9.
    """

    code = "FO005"
    name = "one-pass-variance"
    says = "one side computes the variance as E[x²] − E[x]², which cancels"
    yields_to = ("IN002",)
    alarms = ("one-pass-variance",)

    def explain(self, view: View) -> Finding | None:
        """The one-pass variance that an origin belongs to, if only one side has one there."""
        for found in one_passes(view.case):
            here = view.origin.calls[found.side]
            inside = {str(view.case.traces[found.side].calls[i].site) for i in found.span}
            region = {str(site) for site in view.origin.region}
            result = view.seen.results[found.side]
            if here in found.span or region & inside or result.producer in found.span:
                return self._finding(view, found)
        return None

    def _finding(self, view: View, found: OnePass) -> Finding:
        case, side = view.case, ("reference", "candidate")[found.side]
        ends = view.origin.calls[found.side] == found.call
        site = str(case.traces[found.side].calls[found.call].site)
        evidence = Evidence(
            f"the {side} computes a variance of {found.elements} values as E[x²] − E[x]² ({site}), which cancels up to "
            f"{found.lost:.1f} of {found.bits:.0f} bits; the other side does not",
            {"side": side, "site": site, "cancelled_bits": found.lost, "bits": found.bits, "elements": found.elements},
        )
        unstable = found.lost > CANCELLED_SHARE * found.bits
        return Finding(
            self.code,
            (found.side, case.traces[found.side].calls[found.call].site.op, unstable),
            Verdict.UNSTABLE if unstable else Verdict.ROUNDING,
            (evidence,),
            (_replacement(view, found),) if ends else (),
            {"side": side, "lost": found.lost},
        )

    def remedy(self, finding: Finding) -> Remedy:
        """Subtract the mean first."""
        side: Literal["reference", "candidate"] = finding.facts["side"]
        return Remedy(
            f"Subtract the mean before squaring in the {side}: E[x²] − E[x]² cancels up to "
            f"{finding.facts['lost']:.1f} bits.",
            _CODE,
        )

    def from_alarm(self, alarm: Alarm) -> Cause:
        """The cause of a range audit's alarm, with the two-pass variance as its intervention."""
        data = alarm.data
        sentence = (
            f"E[x²] − E[x]² in {alarm.dtype} cancels {data['bits_lost']:.1f} of {data['bits_of_format']:.0f} bits "
            f"(squares at {data['squares_at']})"
        )
        rewrite = Intervention("two-pass-variance", str(alarm.site), [data["squares_at"], data["means_at"]])
        remedy = Remedy("Subtract the mean before squaring, or use the framework's variance.", _CODE)
        return alarmed(self, alarm, sentence, remedy, (rewrite,))

    def example(self) -> tuple[Any, Any]:
        """A norm by deviations against one by the mean of squares."""
        import torch

        torch.manual_seed(0)
        linear, x = torch.nn.Linear(16, 8), 20 + torch.randn(4, 16)

        def run(one_pass: bool) -> Any:
            mean = x.mean(-1, keepdim=True)
            if one_pass:
                variance = x.square().mean(-1, keepdim=True) - mean.square()
            else:
                variance = (x - mean).square().mean(-1, keepdim=True)
            return linear((x - mean) * torch.rsqrt(variance + 1e-5))

        return lambda: run(False), lambda: run(True)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """One pass on both sides, and another epsilon or another count."""
        import torch

        torch.manual_seed(0)
        x = torch.randn(4, 16)

        def run(eps: float, count: int) -> Any:
            variance = (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()) * (16 / count)
            return x * torch.rsqrt(variance + eps)

        yield (lambda: run(1e-5, 16)), (lambda: run(1e-2, 16))
        yield (lambda: run(1e-5, 16)), (lambda: run(1e-5, 15))


def one_passes(case: Case) -> tuple[OnePass, ...]:
    """One-pass variances of the side that has more of them."""

    def work() -> tuple[OnePass, ...]:
        sides = [_in_trace(case, side) for side in (0, 1)]
        if len(sides[0]) == len(sides[1]):
            return ()
        return sides[0] if len(sides[0]) > len(sides[1]) else sides[1]

    return case.shared("one-pass variances", work)


def _in_trace(case: Case, side: int) -> tuple[OnePass, ...]:
    """Subtractions whose operands come from the same larger tensor, checked on the values."""
    calls = case.traces[side].calls
    roles = for_framework(case.traces[side].framework).roles
    chosen: list[tuple[Call, Event, tuple[int, ...]]] = []
    for call in calls:
        if Role.DIFFERENCE in roles(call.site.op) and len(call.reads) == 2 and len(chosen) < _MOST:
            for source, span in _common(calls, call):
                chosen.append((call, source, span))
    if not chosen:
        return ()
    values = _values(case, side, chosen)
    found = {}
    for call, source, span in chosen:
        parts = [values.get(_key(event)) for event in (source, *call.reads)]
        if call.index in found or any(part is None for part in parts):
            continue
        x, squares, squared = (number(part) for part in parts if part is not None)
        lost = _cancelled(x, squares, squared, call.writes[0].spec.dtype)
        if lost is not None:
            bits = 1 - math.log2(2 * UNIT_ROUNDOFF[call.writes[0].spec.dtype])
            found[call.index] = OnePass(side, call.index, span, lost, bits, x.size // max(squares.size, 1))
    return tuple(found.values())


def _common(calls: Any, call: Call) -> Iterator[tuple[Event, tuple[int, ...]]]:
    """Larger tensors that both operands come from within few ops, and the calls between."""
    sides = [_upstream(calls, event) for event in call.reads]
    for key, (source, first) in sides[0].items():
        if key in sides[1] and source.spec.numel > call.writes[0].spec.numel:
            yield source, tuple(sorted({*first, *sides[1][key][1], call.index}))


def _upstream(calls: Any, event: Event) -> dict[Any, tuple[Event, tuple[int, ...]]]:
    found: dict[Any, tuple[Event, tuple[int, ...]]] = {}
    waiting: list[tuple[Event, tuple[int, ...]]] = [(event, ())]
    for _ in range(_DEEP):
        later = []
        for at, path in waiting:
            if at.producer >= 0:
                for read in calls[at.producer].reads:
                    later.append((read, (*path, at.producer)))
                    found.setdefault(_key(read), (read, (*path, at.producer)))
        waiting = later
    return found


def _key(event: Event) -> Any:
    return event.storage, event.producer, event.spec.shape


def _values(case: Case, side: int, chosen: list[tuple[Call, Event, tuple[int, ...]]]) -> dict[Any, Payload]:
    """What the sources and operands were, from one replay of a side."""
    trace = case.traces[side]
    wanted: dict[int, list[Event]] = {}
    for call, source, _ in chosen:
        for event in (source, *call.reads):
            wanted.setdefault(event.producer, []).append(event)
    executor = executor_of(trace)
    values: dict[Any, Payload] = {}

    def look(executor: Executor, index: int) -> None:
        for event in wanted.get(index, []):
            try:
                values.setdefault(_key(event), executor.payload(executor.read(event)))
            except WhydiffError:
                continue  # without its values it is no candidate

    def before(executor: Executor, call: Call) -> None:
        if call.index == 0:
            look(executor, -1)

    replay(executor, before=before, watch=lambda executor, call: look(executor, call.index))
    return values


def _cancelled(x: Array, squares: Array, squared: Array, dtype: str) -> float | None:
    """Bits that the subtraction cancels at most, if the operands are E[x²] and E[x]²; None if they are not."""
    unit = UNIT_ROUNDOFF.get(dtype)
    if unit is None or squares.size == 0 or x.size % squares.size or not np.isfinite(x).all():
        return None
    for count in range(1, x.ndim + 1):
        for axes in itertools.combinations(range(x.ndim), count):
            terms = math.prod(x.shape[i] for i in axes)
            if terms < 2 or x.size // terms != squares.size:
                continue
            first, second = np.square(x).mean(axes).reshape(-1), np.square(x.mean(axes)).reshape(-1)
            allowed = ROUNDING_LEVEL * unit * math.sqrt(terms) * first
            if np.all(np.abs(squares.reshape(-1) - first) <= allowed) and (
                np.all(np.abs(squared.reshape(-1) - second) <= allowed)
            ):
                variance = np.maximum(x.var(axes).reshape(-1), np.finfo(np.float64).tiny)
                return float(np.max(np.log2(np.maximum(first / variance, 1.0))))
    return None


def _replacement(view: View, found: OnePass) -> Intervention:
    """The reference's formula in the candidate's place, with all ops of either formula kept apart."""
    case = view.case
    pairs = {((p.reference, p.candidate)[found.side]): p.reference for p in case.alignment.pairs}
    inside = [str(case.reference.calls[pairs[i]].site) for i in found.span if i in pairs]
    ours, theirs = str(view.origin.site.at("")), str(view.origin.candidate_site.at(""))
    return Intervention("replace-op", theirs, (ours, *inside))


REGISTER = OnePassVariance()
