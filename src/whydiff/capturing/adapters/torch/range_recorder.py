"""Range audit of a run: statistics of every value that an op writes, aggregated by site; no tensor is kept.

The hot path measures what was written and little else. What an op read is looked up only where the answer can
matter: where the result is not finite or suspiciously zero, where an earlier overflow is still about, and for the few
ops whose dataflow is followed (`whydiff.capturing.adapters.torch.range_flow`). A weight is measured only if that happens.
"""

from __future__ import annotations

import gc
import math
from array import array
from collections.abc import Container, Iterable, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.torch.dtypes import dtype_name, not_comparable
from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.operators import decomposed
from whydiff.capturing.adapters.torch.range_flow import Plan, made_by, of_product, plan_of, plans, tensors_of
from whydiff.capturing.adapters.torch.range_judge import Call, Judge
from whydiff.capturing.adapters.torch.range_values import Known, Values, addressed
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.capturing.adapters.torch.state import LiveLeaf
from whydiff.numbers.ranges import LIMITS, Tally
from whydiff.numbers.ranges.audit import Audit, SiteRange
from whydiff.numbers.tolerance import UNDERFLOW_SHARE
from whydiff.records import Phase, Site

_Key = tuple[str, str, Phase]
_NAMES = {dtype: name for name in LIMITS if isinstance(dtype := getattr(torch, name, None), torch.dtype)}
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_Reads = tuple[list[torch.Tensor], list[Known]]


class _All:
    """Contains everything."""

    def __contains__(self, item: object) -> bool:
        return True


_ALL = _All()


class _Total:
    """Aggregate of one site."""

    __slots__ = ("cancelled", "dtype", "dtype_name", "key", "largest", "number", "slot", "steps", "tally")

    def __init__(self, key: _Key, number: int, slot: int, dtype: torch.dtype) -> None:
        self.key, self.number, self.slot, self.dtype, self.cancelled = key, number, slot, dtype, 0.0
        self.dtype_name = _NAMES[dtype]
        self.tally = Tally(self.dtype_name)
        self.steps, self.largest = array("q"), array("d")

    @property
    def site(self) -> Site:
        """Where; the step is that of the first call."""
        scope, op, phase = self.key
        return Site(
            scope=scope,
            op=op,
            phase=phase,
            step=self.steps[0],
            rank=0,
            occurrence=self.number,
            slot=f"output.{self.slot}" if self.slot else "output",
        )


class _Place:
    """One op name in one scope and phase: how often it was called in this step, and its sites."""

    __slots__ = ("key", "number", "step", "totals")

    def __init__(self, key: _Key) -> None:
        self.key, self.number, self.step = key, -1, -1
        self.totals: dict[Any, _Total] = {}


class RangeRecorder(Mode):
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
        self._values = Values()
        self._judge = Judge()
        self._places: dict[_Key, _Place] = {}
        self._totals: list[_Total] = []
        self._skipped: dict[str, int] = {}
        self._step = 0
        self._troubled = False

    def audit(self) -> Audit:
        """What was measured so far."""
        collecting = gc.isenabled()
        gc.disable()  # many small records, none of them garbage
        try:
            sites = tuple(
                SiteRange(
                    total.site,
                    total.tally.range(),
                    len(total.steps),
                    tuple(zip(total.steps, total.largest, strict=True)),
                    total.cancelled,
                )
                for total in self._totals
            )
        finally:
            if collecting:
                gc.enable()
        return Audit(sites, self._judge.alarms, dict(self._skipped), self.scopes.step + 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        entry = plans.get(id(func))
        plan = plan_of(func) if entry is None else entry[1]
        if plan.aside:
            if plan.operator.composite:
                with self:
                    return decomposed(func, args, kwargs or {})
            return func(*args, **(kwargs or {}))
        scopes = self.scopes
        phase, scope = scopes.phase_and_scope()
        if plan.view:
            return func(*args, **kwargs) if kwargs else func(*args)
        key = (scope, plan.op, phase)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = _Place(key)
        step = scopes.step
        if place.step != step:
            place.step, place.number = step, -1
            if step != self._step:
                self._next_step(step)
        place.number = number = place.number + 1
        if kwargs is None:
            kwargs = {}
        if plan.changes:
            if plan.changes_first and not self._troubled:
                changed = args[0]
                if not plan.operator.overwrites:
                    self._values.look(changed)  # while it still is what it was
                if self._leaves:
                    self._keep(changed)
                result = func(*args, **kwargs)
                self._write(plan, place, number, 0, func, args, kwargs, changed, _ALL, None)
                return result
            return self._changing(plan, place, number, func, args, kwargs)
        result = func(*args, **kwargs)
        if plan.operator.uninitialised:
            return result
        if isinstance(result, torch.Tensor):
            self._write(plan, place, number, 0, func, args, kwargs, result, None, None)
        else:
            slot = 0
            for tensor in tensors_of(result):
                slot += self._write(plan, place, number, slot, func, args, kwargs, tensor, None, None)
        return result

    def _changing(self, plan: Plan, place: _Place, number: int, func: Any, args: Any, kwargs: Any) -> Any:
        """An op that writes to several of its arguments, or while an overflow is about."""
        operator = plan.operator
        positions = operator.writes_to(args)
        mutated = [args[i] for i in positions if i < len(args)]
        mutated += [kwargs[name] for name in operator.written_names if name in kwargs]
        changed = [t for t in tensors_of(mutated) if not not_comparable(t)]
        before = self._before(plan, args, kwargs)
        for tensor in changed if self._leaves else ():
            self._keep(tensor)
        result = func(*args, **kwargs)
        if operator.uninitialised or operator.resizes:
            return result
        slot = 0
        written = {id(t): t for t in (*tensors_of(result), *changed)}
        touched = {t.untyped_storage()._cdata for t in changed}
        for tensor in written.values():
            slot += self._write(plan, place, number, slot, func, args, kwargs, tensor, touched, before)
        return result

    def _keep(self, tensor: torch.Tensor) -> None:
        if not not_comparable(tensor):
            for leaf in self._leaves.pop(tensor.untyped_storage()._cdata, ()):
                leaf.keep_as_it_was()

    def _before(self, plan: Plan, args: Any, kwargs: Any) -> _Reads:
        """Floating tensors whose numbers an op reads, and what is known of them."""
        if plan.shape_only:
            return [], []
        reads = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        if len(reads) < len(args) or kwargs:  # scalars, lists, names
            reads = [t for t in tensors_of((args, kwargs)) if t.is_floating_point()]
        operator = plan.operator
        if operator.overwrites:  # what is overwritten is not read
            over = {id(args[i]) for i in operator.written_args if i < len(args)}
            over |= {id(t) for name in operator.written_names if name in kwargs for t in tensors_of(kwargs[name])}
            reads = [t for t in reads if id(t) not in over]
        look = self._values.look
        return reads, [look(tensor) for tensor in reads]

    def _write(
        self,
        plan: Plan,
        place: _Place,
        number: int,
        slot: int,
        func: Any,
        args: Any,
        kwargs: Any,
        tensor: torch.Tensor,
        touched: Container[int] | None,
        read: _Reads | None,
    ) -> bool:
        """Measure one tensor that an op wrote.

        Args:
            plan, place, number, func, args, kwargs: the call.
            slot: of the result.
            tensor: what was written.
            touched: identities of the storages that the call changed in place.
            read: what it read, where this was looked up before; otherwise it is looked up if it matters.

        Returns:
            Whether it is a floating-point tensor (only these have slots).
        """
        dtype = tensor.dtype
        if dtype not in _NAMES:
            if dtype.is_floating_point or dtype.is_complex:
                self._skip(not_comparable(tensor) or f"dtype {dtype_name(dtype)}")
            return dtype.is_floating_point
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided or tensor.is_nested or tensor.is_meta:
            reason = not_comparable(tensor)
            if reason:
                self._skip(reason)
                return True
        storage = tensor.untyped_storage()
        identity = storage._cdata
        entries = self._values.known
        old = entries.get(identity)
        if old is not None and (touched is None or identity not in touched):
            return True  # a view: no new number
        total = place.totals.get((number, slot) if slot else number)
        if total is None or total.dtype is not dtype:
            total = self._total(place, number, slot, dtype)
        elements = tensor.numel()
        if tensor.is_cpu and tensor.is_contiguous():
            largest, special, zeros = total.tally.add(tensor.data_ptr(), elements)
        else:
            _held, address = addressed(tensor)  # a copy lives as long as its name
            largest, special, zeros = total.tally.add(address, elements)
        total.steps.append(place.step)
        total.largest.append(largest)
        role, troubled = plan.role, self._troubled
        if read is None and (special or troubled or (role and role != "product")):
            read = self._before(plan, args, kwargs)  # of a storage that was changed this is still what it was
        if old is None:
            if len(entries) >= self._values.limit:
                self._values.prune()
            known = entries[identity] = Known(storage._weak_ref(), largest)
        else:
            known = entries[identity] = Known(old.handle, largest)
        if read is None:
            if role:
                known.made = ("product", total)
            return True
        reads, before = read
        if role:
            if role == "sum" and len(before) > 1 and largest:
                most = max(before[0].largest, before[1].largest)
                if most > largest:
                    total.cancelled = max(total.cancelled, math.log2(most / largest))
            known.made = made_by(plan, total, args, reads, before, elements)
        known.finite = not special
        if special or troubled or _noteworthy(role, before, zeros, elements):
            call = Call(plan, func, args, kwargs, reads, before, zeros)
            self._judge.written(call, total, place.step, tensor, largest, known)
            self._troubled = troubled or known.tainted or known.vanished
        return True

    def _total(self, place: _Place, number: int, slot: int, dtype: torch.dtype) -> _Total:
        """A site met for the first time, or in another dtype than before."""
        which: Any = (number, slot) if slot else number
        if which in place.totals:
            which = (number, slot, dtype)
            if which in place.totals:
                return place.totals[which]
        total = place.totals[which] = _Total(place.key, number, slot, dtype)
        self._totals.append(total)
        return total

    def _skip(self, reason: str) -> None:
        self._skipped[reason] = self._skipped.get(reason, 0) + 1

    def _next_step(self, step: int) -> None:
        self._step = step
        self._troubled = self._troubled and self._values.troubled()


def _noteworthy(role: str, before: Sequence[Known], zeros: int, elements: int) -> bool:
    """Whether a finite result of an op with a role has to be judged."""
    if role == "scaling":
        return zeros > UNDERFLOW_SHARE * elements or (bool(before) and of_product(before[0]))
    if role == "sum":
        return bool(zeros) or (len(before) == 2 and before[0].made is not None and before[1].made is not None)
    return role == "bound" and bool(zeros)
