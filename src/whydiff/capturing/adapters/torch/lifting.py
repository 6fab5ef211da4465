"""Lifting: the recorded program carried out again in float32 or float64, with the same values.

A lifted replay has wider storages and the same calls (``docs/decisions/0001``): no copy of the model is
made, every widening is exact, leaves are widened when an op first reads them and freed after their last use,
and what the user's code asked of a dtype was answered when the program was recorded. Integers, booleans and
indices stay what they are. Source: ``docs/explanation/verdict-engine.md``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

from whydiff.capturing.adapters import contract
from whydiff.capturing.adapters._live import not_lifted
from whydiff.capturing.adapters.torch.allowed import takes_indices
from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.facts import Facts, depends_on_floats, epsilon, floats_at
from whydiff.capturing.adapters.torch.fingerprints import content_lanes
from whydiff.capturing.adapters.torch.held import Held
from whydiff.capturing.adapters.torch.operators import describe, draws, find
from whydiff.capturing.adapters.torch.rounded_at_random import Wide, round_together
from whydiff.capturing.adapters.torch.widening import Arguments, carry_out, lifted_dtype, widened
from whydiff.errors import ReplayError
from whydiff.records import Call, Count, Event, Lift, Trace


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
        self._wide: dict[torch.dtype, torch.dtype] = {}
        self._asked: dict[int, _Asked] = {}

    def _manner(self) -> contract.Manner | None:
        return contract.Manner(self.lift) if self.lift.seed is None else None

    def _notes(self) -> tuple[Any, ...]:
        return {why: list(sites) for why, sites in self.not_lifted.items()}, list(self.flips), list(self.exported)

    def _take_notes(self, notes: tuple[Any, ...]) -> None:
        self.not_lifted = {why: list(sites) for why, sites in notes[0].items()}
        self.flips, self.exported = list(notes[1]), list(notes[2])

    def counts(self) -> tuple[Count, ...]:
        """What stayed as recorded, with reasons."""
        found = not_lifted(self.not_lifted, self.flips, self.lift.dtype)
        if self.exported:
            what, how = "numbers that left the program before lifting", f"carried out in {self.lift.dtype}"
            found.append(Count(what=what, reason=how, count=len(self.exported), examples=tuple(self.exported[:3])))
        return tuple(found)

    # ------------------------------------------------------------------ executing

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after a call; never takes recorded (narrow) values."""
        return self.execute_together((), call)[0]

    def execute_together(self, others: Sequence[contract.Executor], call: Call) -> list[str]:
        """As `Executor.execute_together`; what all of them round at random is rounded at once."""
        team = [one for one in (self, *others) if isinstance(one, LiftedExecutor)]
        if len(team) <= len(others):
            return super().execute_together(others, call)
        whys = [super(LiftedExecutor, one).execute(call) for one in team]
        if call.kind == "compute" and not call.gives:
            done = [one for one, why in zip(team, whys, strict=True) if not why]
            at_random = [one for one in done if one.lift.seed is not None]
            if at_random:
                round_together([one._to_be_rounded(call) for one in at_random], [one._generator for one in at_random])
            for one in done:
                if one.lift.casts == "kept" and one.lift.seed is None:
                    one._round(call)
        for one, why in zip(team, whys, strict=True):
            if not why and (call.kind == "compute" or call.gives):
                one._note_discrete(call)
        return whys

    def take_over(self, call: Call, other: contract.Executor, made: Call) -> bool:
        """As `Executor.take_over`, of a replay lifted alike that could lift the call."""
        if not isinstance(other, LiftedExecutor) or other.lift != self.lift or self.lift.seed is not None:
            return False
        site = str(made.site)
        if call.index in self._given or any(site in sites for sites in other.not_lifted.values()):
            return False
        if not self._lend(call, other, made):
            return False
        self._note_discrete(call)
        return True

    def give(self, call: Call, value: torch.Tensor) -> None:
        """As `Executor.give`, widened."""
        super().give(call, widened(value, self.lift))

    def carried_out(self, call: Call, reads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The op on wide reads; mutated ones are changed in place."""
        if not self._runs:
            with self.running():
                return self.carried_out(call, reads)
        self._switch(call)
        wide = [read if read.dtype is self._widest(read.dtype) else widened(read, self.lift) for read in reads]
        func = find(call.target, trusted=self.trusted)
        if not self.trusted:
            self._hold(func, call, *(self._arguments(call, wide) if takes_indices(func) else call.arguments))
        operator = describe(func)
        if operator.op == "native_dropout" and len(reads) == 1:
            return self._dropout(call, wide)
        if draws(func, *call.arguments):
            if not operator.op.endswith("_like") and depends_on_floats(call):
                reason = f"left as recorded: {call.target} draws its random numbers inside"
                self.not_lifted.setdefault(reason, []).append(str(call.site))
            return self._as_recorded(call, wide)
        if self.lift.casts == "kept" and self._facts(call).makes_floats:
            return self._as_recorded(call, wide)
        try:
            outputs = carry_out(func, call, wide, self.lift, self._arguments_of(func, call))
        except ReplayError as error:
            self.not_lifted.setdefault(error.what, []).append(str(call.site))
            return self._as_recorded(call, wide)
        if any(tensor.dtype is not self._widest(tensor.dtype) for tensor in outputs):
            reason = f"left as recorded: {call.target} gives a narrower dtype whatever it reads"
            self.not_lifted.setdefault(reason, []).append(str(call.site))
        if call.mutates:
            return [widened(tensor, self.lift) for tensor in outputs]
        memory = {read.untyped_storage()._cdata for read in reads if read.layout is torch.strided}
        return [self._own(memory, tensor) for tensor in outputs]

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

    def _own(self, memory: set[int], output: torch.Tensor) -> torch.Tensor:
        """An output in memory of its own, not in that of the reads, even if there was nothing left to convert."""
        wide = output if output.dtype is self._widest(output.dtype) else widened(output, self.lift)
        if output.layout is not torch.strided:
            return wide
        return wide.clone() if wide.untyped_storage()._cdata in memory else wide

    def _round(self, call: Call) -> None:
        """Round what the recorded program rounded: outputs narrower than every floating input."""
        inputs = [e for e in call.reads if not e.overwritten and floats_at(e)]
        inputs = [e for e in inputs if e.spec.shape] or inputs
        if not inputs:
            return  # made from no floats: executed as recorded
        finest = max(epsilon(e) for e in inputs)
        for event in call.writes:
            if event.storage in self._held and floats_at(event) and epsilon(event) > finest:
                tensor = self.read(event)
                tensor.copy_(tensor.to(dtype_of(event.spec.dtype)))

    def _to_be_rounded(self, call: Call) -> list[Wide]:
        """Every floating output that is wider here than it was recorded; what nobody reads draws its noise and stays."""
        found = []
        for event, narrow in self._facts(call).floats:
            if event.storage not in self._held:
                continue
            tensor = self.read(event)
            parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            if narrow is not parts.dtype:
                found.append(Wide(parts, narrow, self._last.get(event.storage) != call.index))
        return found

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.lift.seed or 0)
        return self._generators[device]

    def share_leaves(self, first: contract.Executor) -> None:
        """Read the widened leaves of a replay of the same trace that is one call ahead."""
        alike = isinstance(first, LiftedExecutor) and replace(first.lift, seed=self.lift.seed) == self.lift
        self._first = first if isinstance(first, LiftedExecutor) and alike else None
        if self._first is not None:
            self._asked = self._first._asked

    def _facts(self, call: Call) -> Facts:
        """Facts of a call; replays that go together, and a few calls that are carried out again and again, share them."""
        return self._known(call).facts

    def _arguments_of(self, func: Any, call: Call) -> Arguments:
        """The widened arguments of a call, worked out as often as its facts."""
        known = self._known(call)
        if known.arguments is None:
            known.arguments = Arguments(func, call, self.lift, self.places)
        return known.arguments

    def _known(self, call: Call) -> _Asked:
        known = self._asked.get(call.index)
        if known is None or known.call is not call:
            if len(self._asked) >= _REMEMBERED:
                self._asked.clear()
            known = self._asked[call.index] = _Asked(call, Facts.of(call))
        return known

    def _widest(self, dtype: torch.dtype) -> torch.dtype:
        if dtype not in self._wide:
            self._wide[dtype] = lifted_dtype(dtype, self.lift)
        return self._wide[dtype]

    def _note_discrete(self, call: Call) -> None:
        facts = self._facts(call)
        if not facts.reads_floats:
            return
        if not call.writes:
            self.exported.append(str(call.site))
        for event, lanes in facts.choices:
            if event.storage in self._held and content_lanes(self.read(event)) != lanes:
                self.flips.append(str(event.site))

    # ------------------------------------------------------------------ values

    def read(self, event: Event) -> torch.Tensor:
        """The wide tensor an event looks at.

        Raises:
            PayloadError: its leaf was not kept, or the call that made it could not be executed.
            ReplayError: the program looks at the bits of floats as integers.
        """
        if self._stand_ins and event.site in self._stand_ins:
            given: torch.Tensor = self._stand_ins[event.site]
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
                "left as recorded: the program looks at the bits of a wider or narrower type",
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
        if self._first is not None and event.storage in self._leaves and event.storage not in self._changed:
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


@dataclass(slots=True)
class _Asked:
    """What was asked of a call; its arguments where they were needed."""

    call: Call
    facts: Facts
    arguments: Arguments | None = None


_REMEMBERED = 256
"""Calls whose facts are kept: those of a region are carried out many times, those of a whole replay once."""
