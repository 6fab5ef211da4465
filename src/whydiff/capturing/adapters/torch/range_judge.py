"""When a range audit raises an alarm. Called for what is not ordinary only: the ordinary costs nothing here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.torch.range_alarms import (
    examine_masked_rows,
    examine_overflow,
    nans_with_finite_mask,
    scale_factor,
    vanished_constant,
)
from whydiff.capturing.adapters.torch.range_flow import Plan, copied, of_product, one_pass_variance
from whydiff.capturing.adapters.torch.range_values import Known, addressed
from whydiff.numbers.ranges import Range, limits, measure_address
from whydiff.numbers.ranges.audit import Alarm
from whydiff.numbers.tolerance import CANCELLED_SHARE, LATE_SCALING_HEADROOM, UNDERFLOW_SHARE, unit_roundoff
from whydiff.records import Site

_POLES = frozenset(("div_", "addcdiv_", "reciprocal_", "rsqrt_", "log_"))
"""In-place ops that are infinite at zero. (Of other ops this is measured: they are executed again in float64.)"""


class Call:
    """One op call that wrote something noteworthy.

    Attributes:
        plan, func, args, kwargs: what was called.
        reads, before: floating tensors that it read, and what was known of them before.
        zeros: how many zeros it wrote.
    """

    __slots__ = ("args", "before", "func", "kwargs", "plan", "reads", "zeros")

    def __init__(
        self,
        plan: Plan,
        func: Any,
        args: Any,
        kwargs: Any,
        reads: Sequence[torch.Tensor],
        before: Sequence[Known],
        zeros: int,
    ) -> None:
        self.zeros = zeros
        self.plan, self.func, self.args, self.kwargs, self.reads, self.before = plan, func, args, kwargs, reads, before


def _not_zero(args: Sequence[Any], result: torch.Tensor) -> torch.Tensor:
    """Where exact arithmetic gives a scaling no zero: no operand is zero there, nor infinite (what divides by that is zero)."""
    found = torch.ones_like(result, dtype=torch.bool)
    for value in args:
        if isinstance(value, torch.Tensor):
            found &= (value.detach() != 0) & torch.isfinite(value.detach())
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found &= bool(value) and math.isfinite(value)
    return found


class Judge:
    """Collects alarms by kind and site."""

    def __init__(self) -> None:
        self._raised: dict[tuple[Any, Site], _Raised] = {}

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """In order of first occurrence."""
        return tuple(
            Alarm(
                kind,
                site,
                raised.dtype,
                raised.data,
                raised.count,
                (raised.steps[0], raised.steps[-1]),
                tuple(raised.steps),
            )
            for (kind, site), raised in self._raised.items()
        )

    def written(self, call: Call, total: Any, step: int, tensor: torch.Tensor, largest: float, known: Known) -> None:
        """Judge what a call wrote, and note in ``known`` whether it carries an overflow.

        Args:
            call: the call.
            total: its site's statistics, this call's included.
            step: of the run.
            tensor: what was written.
            largest: its largest finite magnitude.
            known: what is now known of it; ``finite`` is set.
        """
        with _disable_current_modes(), torch.no_grad():
            if call.plan.role == "scaling" and call.before and of_product(call.before[0]):
                self._late_scaling(call, total, step)
            if known.finite:
                self._finite(call, total, step, tensor, largest)
            else:
                found = _range(tensor)
                known.nan = bool(found.nans)
                known.tainted = self._not_finite(call, total, step, tensor, found)
        known.vanished = any(k.vanished for k in call.before) or ("underflow", total.site) in self._raised

    def _finite(self, call: Call, total: Any, step: int, tensor: torch.Tensor, largest: float) -> None:
        tainted = [r for k, r in zip(call.before, call.reads, strict=True) if k.tainted]
        if any(read.shape == tensor.shape for read in tainted):
            self._alarm("hidden", total, step, {"largest_after": largest})
        role, before = call.plan.role, call.before
        if role in ("scaling", "sum", "bound") and before and call.zeros:
            self._vanishing(call, total, step, tensor)
        if role == "sum" and call.plan.op in ("sub", "sub_", "rsub"):
            ordered = before[::-1] if call.plan.op == "rsub" else before
            sites = one_pass_variance(ordered)
            if sites is not None:
                digits = -math.log2(unit_roundoff(total.dtype_name))
                lost = math.log2(max(ordered[0].largest, 1e-300) / max(largest, 1e-300))
                if lost > CANCELLED_SHARE * digits:
                    data = {
                        "bits_lost": min(lost, digits),
                        "bits_of_format": digits,
                        "squares_at": str(sites[0].site),
                        "means_at": str(sites[1].site),
                    }
                    self._alarm("one-pass-variance", total, step, data)

    def _vanishing(self, call: Call, total: Any, step: int, tensor: torch.Tensor) -> None:
        """Zeros that exact arithmetic would not give."""
        found = _range(tensor)
        if call.plan.role != "scaling":
            constant = vanished_constant(call.plan.op, call.args, call.kwargs, found.dtype)
            if constant is not None:
                data = {
                    "constant": constant,
                    "smallest": limits(found.dtype).smallest,
                    "zeros": found.zeros,
                    "elements": found.elements,
                }
                self._alarm("underflow", total, step, data)
            return
        if call.plan.changes or found.zeros <= UNDERFLOW_SHARE * found.elements:
            return
        if not call.reads or call.reads[0].numel() != found.elements:
            return
        wanted = _not_zero(call.args, tensor)
        present = int(wanted.sum())
        lost = int((wanted & (tensor == 0)).sum()) / present if present else 0.0
        if lost > UNDERFLOW_SHARE:
            data = {
                "share_lost": lost,
                "smallest_kept": found.min_abs,
                "present": present,
                "zeros": found.zeros,
                "elements": found.elements,
            }
            self._alarm("underflow", total, step, data)

    def _not_finite(self, call: Call, total: Any, step: int, tensor: torch.Tensor, found: Range) -> bool:
        """Whether what was written carries an overflow."""
        before = call.before
        if any(known.tainted for known in before):
            return True
        deliberate = any(isinstance(a, float) and not math.isfinite(a) for a in (*call.args, *call.kwargs.values()))
        if deliberate or call.plan.op == "full":
            return False
        if all(known.finite for known in before):
            data: dict[str, Any] = {
                "infs": found.infs,
                "nans": found.nans,
                "elements": found.elements,
                "largest_input": max((k.largest for k in before), default=0.0),
            }
            if not call.plan.operator.written_names:
                data |= examine_overflow(call.func, call.args, call.kwargs, found.dtype)
            vanished = any(known.vanished for known in before)
            if "float64" in data and not vanished:
                return False  # a pole of the function (log 0, 1 / 0): no dtype would help
            if vanished and ("float64" in data or call.plan.op in _POLES):
                data["of_vanished_numbers"] = True
            self._alarm("overflow", total, step, data)
            return True
        if found.nans and not any(known.nan for known in before):
            rows = examine_masked_rows(list(call.reads), tensor)
            if not rows:
                return False  # what an infinity that the program was given makes of itself
            data = {"nans": found.nans, "elements": found.elements, "fully_masked_rows": rows}
            if not call.plan.operator.written_names:
                data |= nans_with_finite_mask(call.func, call.args, call.kwargs)
            self._alarm("masked-row", total, step, data)
            return True
        return any(known.nan for known in before)

    def _late_scaling(self, call: Call, total: Any, step: int) -> None:
        """A number below one scales what a product stored."""
        factor = scale_factor(call.plan.op, call.args)
        if factor is None or factor >= 1:
            return
        product = copied(call.before[0]).made[1]
        overflow = self._raised.get(("overflow", product.site))
        true = overflow.data.get("true_largest") if overflow is not None else None
        stored = product.tally.range()
        headroom = stored.headroom()
        if isinstance(true, float):
            headroom = min(headroom, math.log2(limits(stored.dtype).largest / true))
        if headroom < LATE_SCALING_HEADROOM or not stored.finite:
            data = {
                "factor": factor,
                "gain_bits": -math.log2(factor),
                "headroom_stored": headroom,
                "headroom_scaled_first": headroom - math.log2(factor),
                "scaled_at": str(total.site),
            }
            self._alarm("late-scaling", product, step, data)

    def _alarm(self, kind: Any, total: Any, step: int, data: dict[str, Any]) -> None:
        raised = self._raised.get((kind, total.site))
        if raised is None:
            raised = self._raised[kind, total.site] = _Raised(total.dtype_name, data)
        raised.count += 1
        if not raised.steps or raised.steps[-1] != step:
            raised.steps.append(step)


class _Raised:
    """An alarm that may be raised again."""

    __slots__ = ("count", "data", "dtype", "steps")

    def __init__(self, dtype: str, data: dict[str, Any]) -> None:
        self.dtype, self.data, self.count = dtype, data, 0
        self.steps: list[int] = []


def _range(tensor: torch.Tensor) -> Range:
    held, address = addressed(tensor)
    return measure_address(address, held.numel(), str(held.dtype).removeprefix("torch."))
