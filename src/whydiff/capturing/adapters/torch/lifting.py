"""Lifting: the recorded program carried out again in float32 or float64, with the same values.

A lifted replay has wider storages and the same calls (``docs/decisions/0001``): no copy of the model is
made, every widening is exact, leaves are widened when an op first reads them and freed after their last use,
and what the user's code asked of a dtype was answered when the program was recorded. Integers, booleans and
indices stay what they are. Source: ``docs/explanation/verdict-engine.md``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import short
from whydiff.capturing.adapters.torch.arguments import decode
from whydiff.capturing.adapters.torch.dtypes import default_dtype, dtype_of, integer_view
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.fingerprints import content_lanes
from whydiff.capturing.adapters.torch.formulas import FORMULAS, filled
from whydiff.capturing.adapters.torch.held import Held, flat
from whydiff.capturing.adapters.torch.operators import describe, draws, find
from whydiff.capturing.adapters.torch.places import Places
from whydiff.capturing.adapters.torch.rounded_at_random import noise_for, rounded
from whydiff.errors import ReplayError, WhydiffError
from whydiff.records import Call, Count, Event, Lift, Trace

_REFUSALS = (RuntimeError, TypeError, ValueError, NotImplementedError, WhydiffError)


def lifted_dtype(dtype: torch.dtype, lift: Lift) -> torch.dtype:
    """The dtype in which values of a recorded dtype are carried; integers and booleans stay."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return dtype
    widest = torch.complex128 if dtype.is_complex else torch.float64
    if lift.dtype == "float64" or (dtype is widest and not lift.everything):
        return widest
    return torch.complex64 if dtype.is_complex else torch.float32


def widened(tensor: torch.Tensor, lift: Lift) -> torch.Tensor:
    """The same values in the lifted dtype (the tensor itself if it has it already)."""
    wide = lifted_dtype(tensor.dtype, lift)
    return tensor if tensor.dtype is wide else tensor.to(wide)


def _carry_out(func: Any, call: Call, reads: Sequence[torch.Tensor], lift: Lift, places: Places) -> list[torch.Tensor]:
    """The op on wide reads: its kernel, else a formula, else a decomposition.

    On a device the formula comes first: fused attention kernels that are called by name do not refuse a dtype that
    they cannot compute (cuDNN's gives NaN for float32).
    """
    if draws(func, *call.arguments):
        raise ReplayError("not lifted: a random op draws other numbers in another dtype", where=str(call.site))
    args, kwargs = _wide_arguments(func, call, reads, lift, places)
    refused: BaseException | None = None
    formula = FORMULAS.get(describe(func).op)
    on_cpu = all(read.is_cpu for read in reads)
    kernel, known, taken_apart = (lambda: func), (lambda: formula), (lambda: _decomposition(func))
    with default_dtype(dtype_of(lift.dtype)):
        for way in (kernel, known, taken_apart) if on_cpu else (known, kernel, taken_apart):
            try:
                carried = way()
                if carried is not None:
                    found = _finished(func, carried(*args, **kwargs))
                    return filled(found, [e.spec for e in call.writes]) if carried is formula else found
            except _REFUSALS as error:
                refused = error
    raise ReplayError(
        f"not lifted: {call.target} has no {lift.dtype} kernel, formula or decomposition here",
        where=str(call.site),
        actual=short(refused) if refused is not None else "",
    ) from refused


@functools.cache
def _decomposition(func: Any) -> Any:
    """What torch takes an op apart into; None: nothing. Looking it up costs more than most ops."""
    from torch._decomp import get_decompositions

    return get_decompositions([func]).get(func)


def _finished(func: Any, result: Any) -> list[torch.Tensor]:
    if describe(func).uninitialised and isinstance(result, torch.Tensor):
        integer_view(result).zero_()
    return list(flat(result))


def _wide_arguments(
    func: Any, call: Call, reads: Sequence[torch.Tensor], lift: Lift, places: Places
) -> tuple[list[Any], dict[str, Any]]:
    """The template's arguments with floating dtypes widened; ``half_to_float`` has nothing left to do."""
    args = [_widen_dtypes(decode(item, reads, place=places.of), lift) for item in call.arguments[0]]
    kwargs = {n: _widen_dtypes(decode(item, reads, place=places.of), lift) for n, item in call.arguments[1].items()}
    position = _half_to_float(func)
    if 0 <= position < len(args):
        args[position] = False
    elif "half_to_float" in kwargs:
        kwargs["half_to_float"] = False
    return args, kwargs


@functools.cache
def _half_to_float(func: Any) -> int:
    """Position of the argument of that name; -1: there is none."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("half_to_float") if "half_to_float" in names else -1


def _widen_dtypes(value: Any, lift: Lift) -> Any:
    if isinstance(value, torch.dtype):
        return lifted_dtype(value, lift)
    if isinstance(value, list):
        return [_widen_dtypes(item, lift) for item in value]
    return value


class LiftedExecutor(Executor):
    """Replays one trace with wide storages.

    Casts that *widen* vanish by themselves. A recorded op whose floating output is narrower than every
    floating input (a cast; a constant or integers turned into floats) rounds to the recorded dtype if
    ``lift.casts`` is ``"kept"``, and does not round at all if it is ``"lifted"``. Ops that
    cannot be lifted are executed at the recorded precision and counted.

    Attributes:
        not_lifted: reason → sites.
        flips: sites whose integer or boolean result, computed from floats, is not the recorded one.
        exported: sites where a number left the program (``.item()``); what became of it stays as recorded.
    """

    forced_flags = MappingProxyType({"matmul_precision": "highest", "cuda_tf32": False, "cudnn_tf32": False})
    """Under them float32 means float32."""

    def __init__(
        self,
        trace: Trace,
        lift: Lift,
        *,
        restore: Mapping[str, torch.Tensor] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore=restore, exchanged=exchanged)
        self.lift = lift
        self.not_lifted: dict[str, list[str]] = {}
        self.flips: list[str] = []
        self.exported: list[str] = []
        self._first: LiftedExecutor | None = None
        self._generators: dict[torch.device, torch.Generator] = {}

    def counts(self) -> tuple[Count, ...]:
        """What stayed as recorded, with reasons."""
        found = [
            Count(what="ops not lifted", reason=why, count=len(sites), examples=tuple(sites[:3]), code="not lifted")
            for why, sites in self.not_lifted.items()
        ]
        how = f"lifted to {self.lift.dtype}"
        if self.flips:
            what = "discrete choices that flip when lifted"
            found.append(
                Count(what=what, reason=how, count=len(self.flips), examples=tuple(self.flips[:3]), code="flip")
            )
        if self.exported:
            what = "numbers that left the program before lifting"
            found.append(Count(what=what, reason=how, count=len(self.exported), examples=tuple(self.exported[:3])))
        return tuple(found)

    # ------------------------------------------------------------------ executing

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after a call; never takes recorded (narrow) values."""
        why = super().execute(call)
        if call.gives and not why:
            self._note_discrete(call)
        if why or call.kind != "compute" or call.gives:
            return why
        if self.lift.seed is not None:
            self._round_stochastically(call)
        elif self.lift.casts == "kept":
            self._round(call)
        self._note_discrete(call)
        return ""

    def give(self, call: Call, value: torch.Tensor) -> None:
        """As `Executor.give`, widened."""
        super().give(call, widened(value, self.lift))

    def carried_out(self, call: Call, reads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The op on wide reads; mutated ones are changed in place."""
        if not self._runs:
            with self.running():
                return self.carried_out(call, reads)
        self._switch(call)
        wide = [widened(read, self.lift) for read in reads]
        func = find(call.target, trusted=self.trusted)
        if not self.trusted:
            self._hold(func, call, *self._arguments(call, wide))
        operator = describe(func)
        if operator.op == "native_dropout" and len(reads) == 1:
            return self._dropout(call, wide)
        if draws(func, *call.arguments):
            if not operator.op.endswith("_like") and _depends_on_floats(call):
                reason = f"not lifted: {call.target} draws its random numbers inside"
                self.not_lifted.setdefault(reason, []).append(str(call.site))
            return self._as_recorded(call, wide)
        if self.lift.casts == "kept" and _makes_floats(call):
            return self._as_recorded(call, wide)
        try:
            outputs = _carry_out(func, call, wide, self.lift, self.places)
        except ReplayError as error:
            self.not_lifted.setdefault(error.what, []).append(str(call.site))
            return self._as_recorded(call, wide)
        if any(tensor.dtype != lifted_dtype(tensor.dtype, self.lift) for tensor in outputs):
            reason = f"not lifted: {call.target} gives a narrower dtype whatever it reads"
            self.not_lifted.setdefault(reason, []).append(str(call.site))
        return [self._own(call, reads, tensor) for tensor in outputs]

    def _as_recorded(self, call: Call, reads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The op at its recorded precision, its results widened."""
        narrow = [
            read.to(dtype_of(event.spec.dtype)) if event.storage >= 0 else read
            for read, event in zip(reads, call.reads, strict=True)
        ]
        narrow = [
            n.clone() if n is r and i in call.mutates else n for i, (n, r) in enumerate(zip(narrow, reads, strict=True))
        ]
        outputs = super().carried_out(call, narrow)
        for position in call.mutates:
            reads[position].copy_(narrow[position])
        changed = {narrow[i].untyped_storage()._cdata: reads[i] for i in call.mutates}
        return [
            changed[t.untyped_storage()._cdata] if t.untyped_storage()._cdata in changed else widened(t, self.lift)
            for t in outputs
        ]

    def _dropout(self, call: Call, reads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The recorded mask on the wide input."""
        _, mask = self._as_recorded(call, reads)
        kept = 1.0 - float(call.arguments[0][1])
        return [reads[0] * mask / kept if kept else torch.zeros_like(reads[0]), mask]

    def _own(self, call: Call, reads: Sequence[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        """An output in memory of its own, even if there was nothing left to convert."""
        wide = widened(output, self.lift)
        if call.mutates or output.layout is not torch.strided:
            return wide
        memory = wide.untyped_storage()._cdata
        shared = any(r.layout is torch.strided and r.untyped_storage()._cdata == memory for r in reads)
        return wide.clone() if shared else wide

    def _round(self, call: Call) -> None:
        """Round what the recorded program rounded: outputs narrower than every floating input."""
        inputs = [e for e in call.reads if not e.overwritten and _floats(e)]
        inputs = [e for e in inputs if e.spec.shape] or inputs
        if not inputs:
            return  # made from no floats: executed as recorded
        finest = max(_epsilon(e) for e in inputs)
        for event in call.writes:
            if event.storage in self._held and _floats(event) and _epsilon(event) > finest:
                tensor = self.read(event)
                tensor.copy_(tensor.to(dtype_of(event.spec.dtype)))

    def _round_stochastically(self, call: Call) -> None:
        """Round every floating output to its recorded dtype: up with the probability of the part cut off.

        Values that the dtype holds stay as they are: noise is added to the bits that are cut off. Source: Parker,
        *Monte Carlo Arithmetic*, UCLA CSD-970002, 1997 (random rounding). What nobody reads draws its noise and stays.
        """
        unread = self._dying.get(call.index, ())
        for event in call.writes:
            if event.storage not in self._held or not _floats(event) or event.is_look:
                continue
            tensor = self.read(event)
            parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            narrow = dtype_of(event.spec.dtype).to_real() if tensor.is_complex() else dtype_of(event.spec.dtype)
            if narrow is parts.dtype:
                continue
            noise = noise_for(parts, narrow, self._generator(parts.device))
            if event.storage not in unread:
                parts.copy_(rounded(parts, narrow, noise))

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.lift.seed or 0)
        return self._generators[device]

    def share_leaves(self, first: contract.Executor) -> None:
        """Read the widened leaves of a replay of the same trace that is one call ahead."""
        self._first = first if isinstance(first, LiftedExecutor) and first.lift.dtype == self.lift.dtype else None

    def _note_discrete(self, call: Call) -> None:
        if not any(_floats(event) for event in call.reads):
            return
        if not call.writes:
            self.exported.append(str(call.site))
        for event in call.writes:
            fingerprint = event.fingerprint
            if fingerprint is None or _floats(event) or event.storage not in self._held:
                continue
            if fingerprint.covers == "content" and content_lanes(self.read(event)) != fingerprint.lanes:
                self.flips.append(str(event.site))

    # ------------------------------------------------------------------ values

    def read(self, event: Event) -> torch.Tensor:
        """The wide tensor an event looks at.

        Raises:
            PayloadError: its leaf was not kept, or the call that made it could not be executed.
            ReplayError: the program looks at the bits of floats as integers.
        """
        given: torch.Tensor | None = self._stand_ins.get(event.site)
        if given is not None:
            return given
        if self._bounds is not None:
            self._bounds.look(event.spec, event.site)
        held = self._held.get(event.storage)
        if held is None:
            held = self._held[event.storage] = self._load(event)
        if event.spec.dtype == held.recorded:
            return held.look(event)
        seen, recorded = dtype_of(event.spec.dtype), dtype_of(held.recorded)
        wide = lifted_dtype(seen, self.lift)
        if wide.itemsize * recorded.itemsize != held.dtype.itemsize * seen.itemsize:
            raise ReplayError(
                "not lifted: the program looks at the bits of a wider or narrower type",
                where=str(event.site),
                actual=f"{held.recorded} as {event.spec.dtype}",
            )
        offset = event.spec.offset - held.shift * recorded.itemsize // seen.itemsize
        return torch.empty(0, dtype=wide, device=held.whole.device).set_(
            held.storage, offset, event.spec.shape, event.spec.strides
        )

    written = read

    def _held_dtype(self, event: Event) -> torch.dtype:
        return lifted_dtype(dtype_of(event.spec.dtype), self.lift)

    def _load(self, event: Event) -> Held:
        """A leaf's whole memory, widened exactly (as it is, if it is wide already)."""
        if self._first is not None and event.storage not in self._changed:
            shared = self._first._held.get(event.storage)
            if shared is not None:
                return shared
        held = super()._load(event)
        wide = lifted_dtype(held.dtype, self.lift)
        if wide is held.dtype:
            return held
        whole = held.whole
        elements = held.storage.nbytes() // held.dtype.itemsize
        memory = torch.empty(0, dtype=held.dtype, device=whole.device).set_(held.storage, 0, (elements,), (1,))
        copy = memory.to(wide).as_strided(whole.shape, whole.stride(), whole.storage_offset())
        return Held(copy, held.recorded, held.shift)

    def overwrite(self, event: Event, value: torch.Tensor) -> bool:
        """Give the replay another (wide) tensor in an event's place; False if it cannot take it."""
        if event.storage not in self._held:
            if tuple(value.shape) != event.spec.shape:
                return False
            self._adopt(event, self._held_as(event, value, copy=True), fresh=True)
            return True
        return super().overwrite(event, value)

    def faithful(self, call: Call) -> bool | None:
        """None: a lifted replay gives other bits on purpose."""
        return None

    def _place_payloads(self, call: Call) -> bool:
        return False


def _floats(event: Event) -> bool:
    dtype = dtype_of(event.spec.dtype)
    return dtype.is_floating_point or dtype.is_complex


def _epsilon(event: Event) -> float:
    return float(torch.finfo(dtype_of(event.spec.dtype)).eps)


def _depends_on_floats(call: Call) -> bool:
    """Whether floats go in, besides those that are filled, and floats come out."""
    inputs = (event for i, event in enumerate(call.reads) if i not in call.mutates)
    reads = any(_floats(event) and not event.overwritten for event in inputs)
    return reads and any(event.storage >= 0 and _floats(event) for event in call.writes)


def _makes_floats(call: Call) -> bool:
    """Whether floats come out although none went in: constants, and integers turned into floats."""
    if any(_floats(event) and not event.overwritten for event in call.reads):
        return False
    return any(event.storage >= 0 and _floats(event) for event in call.writes)
