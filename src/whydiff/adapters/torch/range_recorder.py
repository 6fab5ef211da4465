"""Range audit of a run: statistics of every value that an op writes, aggregated by site; no tensor is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from whydiff.adapters.torch.dtypes import dtype_name, not_comparable
from whydiff.adapters.torch.operators import Operator, decomposed, describe
from whydiff.adapters.torch.range_alarms import (
    examine_masked_rows,
    examine_overflow,
    nans_with_finite_mask,
    scale_factor,
)
from whydiff.adapters.torch.scopes import Scopes
from whydiff.adapters.torch.state import LiveLeaf
from whydiff.adapters.torch.storages import Storages, span_of
from whydiff.ranges import LIMITS, Range, limits, measure_address
from whydiff.ranges.audit import Alarm, Audit, SiteRange
from whydiff.records import Site
from whydiff.tolerance import CANCELLED_SHARE, LATE_SCALING_HEADROOM, UNDERFLOW_SHARE, unit_roundoff

_PRODUCTS = frozenset(["mm", "bmm", "addmm", "baddbmm", "matmul", "dot", "mv", "linear"])
_SUMS = frozenset(["add", "sub", "rsub", "add_", "sub_"])
_SCALINGS = frozenset(["mul", "div", "mul_", "div_", "_to_copy"])


class _Known:
    """What is known of a storage's content: magnitude, finiteness, and how it was made."""

    __slots__ = ("finite", "largest", "made", "nan", "tainted", "vanished")

    def __init__(
        self, largest: float, finite: bool, nan: bool, tainted: bool, made: Any, vanished: bool = False
    ) -> None:
        self.largest, self.finite, self.nan, self.tainted, self.made = largest, finite, nan, tainted, made
        self.vanished = vanished


class _Total:
    """Aggregate of one site."""

    __slots__ = ("calls", "cancelled", "growth", "range", "site")

    def __init__(self, site: Site, first: Range) -> None:
        self.site, self.range, self.calls, self.cancelled = site, first, 0, 0.0
        self.growth: list[tuple[int, float]] = []


class RangeRecorder(TorchDispatchMode):
    """Measures what every op writes while it is active.

    Args:
        scopes: tells scope, phase and step.
        leaves: tensors that are copied before an op changes them, so that the caller can restore them.
    """

    def __init__(self, scopes: Scopes, leaves: Iterable[LiveLeaf] = ()) -> None:
        super().__init__()
        self.scopes = scopes
        self._leaves: dict[int, list[LiveLeaf]] = {}
        for leaf in leaves:
            if not leaf.skipped:
                self._leaves.setdefault(leaf.look.untyped_storage()._cdata, []).append(leaf)
        self._storages = Storages()
        self._known: dict[int, _Known] = {}
        self._totals: dict[Any, _Total] = {}
        self._alarms: dict[Any, Alarm] = {}
        self._skipped: dict[str, int] = {}
        self._occurrences: dict[Any, int] = {}
        self._occurrence_step = 0
        self._step_pruned = 0

    def audit(self) -> Audit:
        """What was measured so far."""
        sites = tuple(
            SiteRange(total.site, total.range, total.calls, tuple(total.growth), total.cancelled)
            for total in self._totals.values()
        )
        return Audit(sites, tuple(self._alarms.values()), dict(self._skipped), self.scopes.step + 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = describe(func)
        if operator.composite:
            with self:
                return decomposed(func, args, kwargs)
        if operator.silent:
            return func(*args, **kwargs)
        phase, scope = self.scopes.phase_and_scope()
        number = self._occurrence(scope, operator.op, phase)
        tensors = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
        reads = tensors[1:] if operator.overwrites else tensors
        before = [self._look(tensor) for tensor in reads]
        mutated: list[Any] = [t for i, t in enumerate(args) if i in operator.written_args]
        mutated += [t for name, t in kwargs.items() if name in operator.written_names]
        for tensor in _tensors(mutated) if self._leaves else ():
            for leaf in self._leaves.pop(tensor.untyped_storage()._cdata, ()):
                leaf.keep_as_it_was()
        result = func(*args, **kwargs)
        written = {id(t): t for t in (*_tensors(result), *_tensors(mutated)) if t.is_floating_point()}
        touched = {t.untyped_storage()._cdata for t in _tensors(mutated)}
        for slot, tensor in enumerate(written.values()):
            known = self._storages.of(tensor)
            if known is not None and tensor.untyped_storage()._cdata not in touched:
                continue  # a view: no new number
            if operator.uninitialised:
                self._storages.add(tensor, 0) if known is None else None
                continue
            where = (scope, operator.op, phase, number, slot)
            with _disable_current_modes():
                self._write(where, operator, func, args, kwargs, reads, before, tensor)
        return result

    def _write(
        self,
        where: Any,
        operator: Operator,
        func: Any,
        args: Any,
        kwargs: Any,
        reads: list[torch.Tensor],
        before: list[_Known],
        tensor: torch.Tensor,
    ) -> None:
        found = self._measure(tensor)
        if found is None:
            return
        total = self._totals.get(where)
        if total is None:
            scope, op, phase, number, slot = where
            site = Site(scope, op, phase, self.scopes.step, 0, number, f"output.{slot}" if slot else "output")
            total = self._totals[where] = _Total(site, found)
        else:
            total.range = total.range.merged(found)
        total.calls += 1
        total.growth.append((self.scopes.step, found.max_abs))
        largest = max((known.largest for known in before), default=0.0)
        if operator.op in _SUMS and len(before) > 1 and found.max_abs:
            total.cancelled = max(total.cancelled, math.log2(max(largest, found.max_abs) / found.max_abs))
        tainted = self._judge(total, found, operator, func, args, kwargs, reads, before, tensor)
        storage = self._storages.of(tensor) or self._storages.add(tensor, 0)
        made = self._made(total, operator, args, reads, before)
        vanished = any(known.vanished for known in before) or ("underflow", total.site) in self._alarms
        self._known[storage.number] = _Known(found.max_abs, found.finite, bool(found.nans), tainted, made, vanished)

    def _judge(
        self,
        total: _Total,
        found: Range,
        operator: Operator,
        func: Any,
        args: Any,
        kwargs: Any,
        reads: list[torch.Tensor],
        before: list[_Known],
        tensor: torch.Tensor,
    ) -> bool:
        """Raise alarms; returns whether the value written carries an overflow."""
        if operator.op in _SCALINGS and before:
            self._late_scaling(total, operator, args, before[0].made)
        carried = any(known.tainted for known in before)
        if found.finite:
            if carried and any(k.tainted and r.shape == tensor.shape for k, r in zip(before, reads, strict=True)):
                self._alarm("hidden", total, found, {"largest_after": found.max_abs})
            self._small_alarms(total, found, operator, args, reads, before)
            return False
        if carried:
            return True
        deliberate = any(isinstance(a, float) and not math.isfinite(a) for a in (*args, *kwargs.values()))
        if deliberate or total.site.op == "full":
            return False
        if all(known.finite for known in before):
            data = {"infs": found.infs, "nans": found.nans, "elements": found.elements,
                    "largest_input": max((k.largest for k in before), default=0.0)}  # fmt: skip
            mutates = bool(operator.written_names)
            data |= {} if mutates else examine_overflow(func, args, kwargs, found.dtype)
            if "float64" in data and not any(known.vanished for known in before):
                return False  # a pole of the function (log 0, 1 / 0): no dtype would help
            self._alarm("overflow", total, found, data)
            return True
        if found.nans and not any(known.nan for known in before):
            rows = examine_masked_rows(reads, tensor)
            if not rows:
                return False  # what an infinity that the program was given makes of itself
            data = {"nans": found.nans, "elements": found.elements, "fully_masked_rows": rows}
            if not operator.written_names:
                data |= nans_with_finite_mask(func, args, kwargs)
            self._alarm("masked-row", total, found, data)
            return True
        return any(known.nan for known in before)

    def _late_scaling(self, total: _Total, operator: Operator, args: Any, source: Any) -> None:
        """A number below one scales what a product stored."""
        factor = scale_factor(operator.op, args)
        if factor is None or factor >= 1 or not isinstance(source, tuple) or source[0] != "product":
            return
        product: _Total = source[1]
        overflow = self._alarms.get(("overflow", product.site))
        true = overflow.data.get("true_largest") if overflow is not None else None
        headroom = product.range.headroom()
        if isinstance(true, float):
            headroom = min(headroom, math.log2(limits(product.range.dtype).largest / true))
        if headroom < LATE_SCALING_HEADROOM or not product.range.finite:
            data = {"factor": factor, "gain_bits": -math.log2(factor), "headroom_stored": headroom,
                    "headroom_scaled_first": headroom - math.log2(factor), "scaled_at": str(total.site)}  # fmt: skip
            self._alarm("late-scaling", product, product.range, data)

    def _small_alarms(
        self,
        total: _Total,
        found: Range,
        operator: Operator,
        args: Any,
        reads: list[torch.Tensor],
        before: list[_Known],
    ) -> None:
        if operator.op in _SCALINGS and before:
            many = found.zeros > UNDERFLOW_SHARE * found.elements and not operator.written_names
            if many and reads[0].numel() == found.elements:
                present = min(int(torch.count_nonzero(t.detach())) for t in reads if t.numel() == found.elements)
                lost = 1 - (found.elements - found.zeros) / present if present else 0.0
                if lost > UNDERFLOW_SHARE:
                    self._alarm("underflow", total, found, {"share_lost": lost, "smallest_kept": found.min_abs})
        if operator.op in _SUMS and len(before) == 2 and _is_variance(before[0].made, before[1].made):
            digits = -math.log2(unit_roundoff(found.dtype))
            lost = math.log2(max(before[0].largest, 1e-300) / max(found.max_abs, 1e-300))
            if lost > CANCELLED_SHARE * digits:
                data = {"bits_lost": lost, "bits_of_format": digits}
                self._alarm("one-pass-variance", total, found, data)

    def _alarm(self, kind: Any, total: _Total, found: Range, data: dict[str, Any]) -> None:
        key = (kind, total.site)
        step = self.scopes.step
        old = self._alarms.get(key)
        if old is None:
            self._alarms[key] = Alarm(kind, total.site, found.dtype, data, 1, (step, step))
        else:
            self._alarms[key] = Alarm(kind, old.site, old.dtype, old.data, old.count + 1, (old.steps[0], step))

    def _made(self, total: _Total, operator: Operator, args: Any, reads: list[torch.Tensor], before: Any) -> Any:
        """How a value was made, as far as alarms ask: a product, a square, a mean, or of what it is a copy."""
        op = operator.op
        if op in _PRODUCTS:
            return ("product", total)
        sources = [self._number(tensor) for tensor in reads]
        if (op == "mul" and len(sources) == 2 and sources[0] == sources[1]) or (
            op == "pow" and len(args) > 1 and args[1] == 2
        ):
            return ("square", _root(before[0].made, sources[0]))
        if op == "mean":
            return ("mean", _root(before[0].made, sources[0]))
        return None

    def _number(self, tensor: torch.Tensor) -> int:
        storage = self._storages.of(tensor)
        return storage.number if storage is not None else -1

    def _look(self, tensor: torch.Tensor) -> _Known:
        """What is known of a tensor about to be read; a value from outside is looked at once."""
        storage = self._storages.of(tensor)
        if storage is None:
            storage = self._storages.add(tensor, -1)
        known = self._known.get(storage.number)
        if known is None:
            known = self._known[storage.number] = self._first_look(tensor)
        return known

    def _first_look(self, tensor: torch.Tensor) -> _Known:
        if not_comparable(tensor) or not tensor.numel() or dtype_name(tensor.dtype) not in LIMITS:
            return _Known(0.0, True, False, False, None)
        with _disable_current_modes(), torch.no_grad():
            low, high = torch.aminmax(tensor.detach().float() if tensor.element_size() == 1 else tensor.detach())
            largest = max(abs(float(low)), abs(float(high)))
        nan = math.isnan(float(low)) or math.isnan(float(high))
        finite = math.isfinite(largest) and not nan
        return _Known(largest if finite else 0.0, finite, nan, False, None)

    def _measure(self, tensor: torch.Tensor) -> Range | None:
        dtype = dtype_name(tensor.dtype)
        reason = not_comparable(tensor) or ("" if dtype in LIMITS else f"dtype {dtype}")
        if reason:
            self._skipped[reason] = self._skipped.get(reason, 0) + 1
            return None
        low, high, dense = span_of(tensor)
        elements = tensor.numel()
        if not dense and high - low != elements * tensor.element_size():
            tensor = tensor.contiguous()
            low = int(tensor.storage_offset()) * tensor.element_size()
        if tensor.device.type != "cpu":
            tensor, low = tensor.cpu(), 0
            low = int(tensor.storage_offset()) * tensor.element_size()
        return measure_address(tensor.untyped_storage().data_ptr() + low, elements, dtype)

    def _occurrence(self, scope: str, op: str, phase: str) -> int:
        if self.scopes.step != self._occurrence_step:
            self._occurrences.clear()
            self._occurrence_step = self.scopes.step
            self._storages.prune()
            alive = {entry.number for entry in self._storages._known.values()}
            self._known = {number: known for number, known in self._known.items() if number in alive}
        key = (scope, op, phase)
        number = self._occurrences.get(key, 0)
        self._occurrences[key] = number + 1
        return number


def _root(made: Any, number: int) -> Any:
    return made if made is not None and made[0] in ("square", "mean") else number


def _is_variance(first: Any, second: Any) -> bool:
    """mean(square(x)) − square(mean(x)) of the same x."""
    if first is None or second is None or first[0] != "mean" or second[0] != "square":
        return False
    inner, outer = first[1], second[1]
    return (
        isinstance(inner, tuple)
        and isinstance(outer, tuple)
        and inner[0] == "square"
        and (outer[0] == "mean" and inner[1] == outer[1])
    )


def _tensors(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
