"""Executes a recorded trace again, call by call, keeping only the storages that are still needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch

from whydiff.capturing.adapters._live import FAILURES, short
from whydiff.capturing.adapters.contract import FUSED
from whydiff.capturing.adapters.torch.allowed import check_indices, contracts
from whydiff.capturing.adapters.torch.arguments import decode
from whydiff.capturing.adapters.torch.comparing import Comparing
from whydiff.capturing.adapters.torch.continuing import copies
from whydiff.capturing.adapters.torch.dtypes import dtype_of, from_payload, integer_view
from whydiff.capturing.adapters.torch.environment import Switches, apply_flags, set_rng_state, settable_now
from whydiff.capturing.adapters.torch.exchanging import COPYING
from whydiff.capturing.adapters.torch.fingerprints import content_lanes
from whydiff.capturing.adapters.torch.held import Held, laid_out, listed, shared
from whydiff.capturing.adapters.torch.kernels import kernels
from whydiff.capturing.adapters.torch.operators import describe, draws, find
from whydiff.capturing.adapters.torch.places import Places, gpus
from whydiff.errors import PayloadError, ReplayError
from whydiff.records import Call, Collective, Event, Leaf, Payload, Trace


class Executor(Comparing):
    """Replays one trace. Use `start`, then `execute` for every call in order; `read`/`written` give tensors.

    Args:
        trace: what to replay; leaves come from its ``handles`` (live) or payloads (disk, whose traces may name
            nothing but ATen ops).
        restore: leaf name → tensor that takes the place of the recorded leaf.
        exchanged: call index → the call that takes its place.
    """

    framework = "torch"
    forced_flags: ClassVar[Mapping[str, Any]] = {}
    """Switches that stand whatever was recorded."""

    def __init__(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, torch.Tensor] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore, exchanged)
        self._runs, self.places = 0, Places(trace)
        self._given: dict[int, torch.Tensor] = {}
        self._received: dict[int, Sequence[torch.Tensor]] = {}
        self._taken: set[int] = set()
        self._lent: set[int] = set()
        self._other = {leaf.storage for leaf in trace.leaves if leaf.name in self._restore}
        self._switches: dict[int, Switches] = {}
        self._changed = {call.reads[i].storage for call in self.trace.calls for i in call.mutates}

    # ------------------------------------------------------------------ running

    @contextmanager
    def running(self) -> Iterator[None]:
        """The state in which recorded ops are executed: no autograd, no autocast, flags and RNG put back."""
        flags = settable_now()
        self._runs += 1
        with ExitStack() as stack:
            stack.callback(self._stopped)
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.random.fork_rng(devices=gpus()))
            for device in ("cpu", "cuda"):
                stack.enter_context(torch.autocast(device, enabled=False, dtype=torch.bfloat16))
            try:
                yield
            finally:
                apply_flags(flags)

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after a call.

        Args:
            call: the next call of the trace.
            recorded: take written values from the trace's payloads where it has them; where a call reads what
                it read in the run they are taken anyway, since another machine may compute other bits.

        Returns:
            Why the call could not be executed; empty if it was.
        """
        if call.kind != "compute":
            return ""
        if Collective.of(call.arguments) is not None:
            return self._exchange(call)
        if call.target in COPYING:
            return self._copy_by(COPYING[call.target], call)
        if call.index in self._given:
            return self._take_given(call)
        as_in_the_run = call.index not in self._edited and not any(
            e.storage in self._other or (self._stand_ins and e.site in self._stand_ins) for e in call.reads
        )
        if not as_in_the_run:
            self._other.update(event.storage for event in call.writes if not event.is_look)
        try:
            if (recorded or as_in_the_run) and self._place_payloads(call):
                self._taken.add(call.index)
                return ""
            outputs = self.apply(call, [self.read(event) for event in call.reads])
        except FAILURES as error:
            if self._place_payloads(call):
                return "" if recorded else f"taken as recorded: {short(error)}"
            return short(error)
        return self._adopt_all(call, outputs)

    def give(self, call: Call, value: torch.Tensor) -> None:
        """Let a call that is still to come write this, in a dtype that may be wider than the recorded one."""
        self._given[call.index] = value

    def receive(self, call: Call, values: Sequence[torch.Tensor]) -> None:
        """Let a collective that is still to come write these."""
        self._received[call.index] = values

    def _exchange(self, call: Call) -> str:
        """Write what a collective gave: what this replay was handed, else what was recorded. Nobody is asked for it."""
        handed = self._received.pop(call.index, None)
        if handed is None:
            if not any(event.fingerprint for event in call.writes):  # the program looked at none of it
                return ""
            return "" if Executor._place_payloads(self, call) else "what it received was not recorded"
        seen: set[int] = set()
        mutated = {call.reads[i].storage for i in call.mutates}
        for event, value in zip(call.writes, handed, strict=True):
            self._place(event, value, mutated, seen)
        return ""

    def _copy_by(self, copying: Callable[..., None], call: Call) -> str:
        try:
            args, kwargs = self._arguments(call, [self.read(event) for event in call.reads])
            copying(*args, **kwargs)
        except FAILURES as error:
            return short(error)
        return ""

    def _take_given(self, call: Call) -> str:
        value = self._given[call.index]
        event = next(event for event in call.writes if not event.is_look)
        if tuple(value.shape) != event.spec.shape:
            return f"was given shape {list(value.shape)}, recorded {list(event.spec.shape)}"
        self._other.add(event.storage)
        self._adopt(event, value, fresh=True)
        return ""

    def kernels(self, call: Call, reads: Sequence[torch.Tensor]) -> list[str]:
        """Names of the CUDA kernels that a call launches; none on the CPU, whose libraries tell on standard output."""
        return kernels(self, call, reads) if any(read.is_cuda for read in reads) else []

    def carried_out(self, call: Call, reads: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Execute a call's op on given tensors; changes mutated ones in place, touches nothing else.

        Raises:
            ReplayError, LookupError, RuntimeError …: whatever the op or its template raises.
        """
        if not self._runs:  # asked alone: what the op needs set is put back behind it
            with self.running():
                return self.carried_out(call, reads)
        if call.target == FUSED:
            return [self.fused(call, reads)]
        func = find(call.target, trusted=self.trusted)
        args, kwargs = self._arguments(call, reads)
        if not self.trusted:
            self._hold(func, call, args, kwargs)
        self._switch(call)
        if call.rng:
            self._seed(call, reads, kwargs)
        result = func(*args, **kwargs)
        if describe(func).uninitialised and isinstance(result, torch.Tensor):
            integer_view(result).zero_()
        return listed(result)

    def _hold(self, func: Any, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Hold a stranger's call to the limits before it is executed; see `whydiff.capturing.limits`."""
        if not call.rng and draws(func, args, kwargs):
            raise ReplayError("A random op's state was not recorded.", where=str(call.site))
        if self._bounds is not None:
            self._bounds.call(call, contracts(describe(func).op))
            check_indices(func, call, args, kwargs)

    def _arguments(self, call: Call, reads: Sequence[torch.Tensor]) -> tuple[list[Any], dict[str, Any]]:
        generator = torch.Generator() if call.rng else None
        given, named = call.arguments
        args = decode(given, reads, generator=generator, place=self.places.of)
        return args, {n: decode(v, reads, generator=generator, place=self.places.of) for n, v in named.items()}

    def _seed(self, call: Call, reads: Sequence[torch.Tensor], kwargs: Mapping[str, Any]) -> None:
        state = self.trace.payload(call.rng)
        if state is None:
            raise ReplayError("The random state was not kept.", where=str(call.site))
        device = next((read.device for read in reads), kwargs.get("device"))
        set_rng_state(from_payload(state), kwargs.get("generator"), device)

    def _stopped(self) -> None:
        self._runs -= 1

    def _switch(self, call: Call) -> None:
        """Set the process-wide switches that were in force when the call was recorded."""
        if call.context not in self._switches:
            recorded = self.trace.contexts[call.context] if self.trace.contexts else {}
            self._switches[call.context] = Switches({**recorded, **self.forced_flags})
        self._switches[call.context].apply()

    # ------------------------------------------------------------------ values

    def read(self, event: Event) -> torch.Tensor:
        """The tensor an event looks at, as it is now in the replay.

        Raises:
            PayloadError: its leaf was not kept, or the call that made it could not be executed.
        """
        if self._stand_ins and event.site in self._stand_ins:
            given: torch.Tensor = self._stand_ins[event.site]
            return given
        if self._bounds is not None:
            self._bounds.look(event.spec, event.site)
        held = self._held.get(event.storage)
        if held is None:
            held = self._held[event.storage] = self._load(event)
        return held.look(event)

    def stand_in(self, event: Event, value: torch.Tensor) -> bool:
        """Give one read another tensor, laid out as the one that it was given; False for another shape."""
        if not self._takes(event, value):
            return False
        self._stand_ins[event.site] = laid_out(self._held_as(event, value), event.spec.strides)
        return True

    def _takes(self, event: Event, value: torch.Tensor) -> bool:
        """Whether a tensor can be in an event's place: complex numbers are no real ones."""
        return tuple(value.shape) == event.spec.shape and (not value.is_complex() or self._held_dtype(event).is_complex)

    def _held_dtype(self, event: Event) -> torch.dtype:
        """The dtype that this replay holds an event's tensor in."""
        return dtype_of(event.spec.dtype)

    def _held_as(self, event: Event, value: torch.Tensor, copy: bool = False) -> torch.Tensor:
        """A value in the dtype and on the device that this replay holds an event's tensor in."""
        return value.to(self.places.of(event.spec.device), self._held_dtype(event), copy=copy)

    def leaf_value(self, leaf: Leaf) -> torch.Tensor:
        """A leaf's tensor at the beginning of the run (never to be written to)."""
        value: torch.Tensor | None = self._restore.get(leaf.name, self._handles.get(leaf.name))
        return from_payload(self._kept(leaf), self.places.of(leaf.spec.device)) if value is None else value

    def _load(self, event: Event) -> Held:
        leaves = self._leaves.get(event.storage)
        if not leaves:
            raise PayloadError("The call that made this tensor was not executed.", where=str(event.site))
        if len(leaves) == 1 or len({(x.spec.offset, x.spec.shape) for x in leaves}) == 1:
            leaf = next((x for x in leaves if x.name in self._restore), leaves[0])
            value = self.leaf_value(leaf)
            restored = leaf.name in self._restore
            live = leaf.name in self._handles and not restored
            if live and event.storage not in self._changed and value.storage_offset() == leaf.spec.offset:
                return Held(value, leaf.spec.dtype)
            return Held(laid_out(value, leaf.spec.strides), leaf.spec.dtype, leaf.spec.offset)
        return shared([(leaf, self.leaf_value(leaf)) for leaf in leaves])

    def overwrite(self, event: Event, value: torch.Tensor) -> bool:
        """Give the replay another tensor in an event's place (of an expanded one: for this read); False if shapes differ."""
        held = self._held.get(event.storage)
        if not self._takes(event, value):
            return False
        if held is not None and event.storage in self._lent:  # another replay holds it too
            held = self._held[event.storage] = copies({0: held})[0]
            self._lent.discard(event.storage)
        if held is None:
            self._other.add(event.storage)
            self._adopt(event, self._held_as(event, value, copy=True), fresh=True)
            return True
        if event.storage in self._leaves and event.storage not in self._changed:
            return False  # the user's own tensor is never written to
        look = held.look(event)
        for dim, (size, stride) in enumerate(zip(look.shape, look.stride(), strict=True)):
            if size > 1 and stride == 0:  # an expanded tensor: one element stands for all along this dimension
                first = value.narrow(dim, 0, 1)
                if not self.same(first.expand_as(value).contiguous(), value.contiguous()):
                    return self.stand_in(event, value)  # the memory has no place for it: this read alone gets it
                look, value = look.narrow(dim, 0, 1), first
        look.copy_(value)
        self._other.add(event.storage)
        return True

    def _lend(self, call: Call, other: Executor, made: Call) -> bool:
        """Hold what another replay's call wrote; False where one of both programs changes it, or it is not there."""
        held = {}
        for event, written in zip(call.writes, made.writes, strict=True):
            if event.is_look or event.storage < 0:
                continue
            one = other._held.get(written.storage)
            if one is None or event.storage in self._changed or written.storage in other._changed:
                return False
            held[event.storage] = one
        self._held |= held
        self._lent |= held.keys()
        other._lent |= {event.storage for event in made.writes if event.storage >= 0}
        return True

    def part(self, event: Event) -> None:
        """Execute what reads this from now on, although it is what the run had."""
        self._other.add(event.storage)

    def _adopt_all(self, call: Call, outputs: Sequence[torch.Tensor]) -> str:
        mutated = {call.reads[i].storage for i in call.mutates}
        if len(outputs) > len(call.writes):
            return f"gave {len(outputs)} outputs, recorded {len(call.writes)}"
        seen: set[int] = set()
        for event, tensor in zip(call.writes, outputs, strict=False):
            if event.storage < 0 or event.is_look or event.storage in mutated:
                continue
            if tuple(tensor.shape) != event.spec.shape:
                return f"gave shape {list(tensor.shape)}, recorded {list(event.spec.shape)}"
            self._adopt(event, tensor, fresh=event.storage not in seen)
            seen.add(event.storage)
        return ""

    def _adopt(self, event: Event, tensor: torch.Tensor, *, fresh: bool) -> None:
        spec = event.spec
        if not fresh:
            held = self._held[event.storage]
            if tensor.untyped_storage()._cdata != held.storage._cdata:
                held.look(event).copy_(tensor)
            return
        if tensor.stride() == spec.strides and tensor.storage_offset() == spec.offset:
            self._held[event.storage] = Held(tensor, spec.dtype)
        else:
            self._held[event.storage] = Held(laid_out(tensor, spec.strides), spec.dtype, spec.offset)

    def _place_payloads(self, call: Call) -> bool:
        """Put recorded written values in place; False if the trace lacks one."""
        wanted = [e for e in call.writes if not e.is_look]
        if not wanted or any(not event.payload for event in wanted):
            return False
        mutated = {call.reads[i].storage for i in call.mutates}
        seen: set[int] = set()
        for event in wanted:
            payload = self.trace.payload(event.payload)
            if payload is None:
                return False
            self._place(event, from_payload(payload), mutated, seen)
        return True

    def _place(self, event: Event, value: torch.Tensor, mutated: set[int], seen: set[int]) -> None:
        """Put a value where a call wrote; ``seen`` holds the storages that the same call wrote before."""
        if event.storage in mutated and self._fits(event):
            self.read(event).copy_(value)
            return
        self._adopt(event, self._held_as(event, value), fresh=event.storage not in seen)
        seen.add(event.storage)

    def _fits(self, event: Event) -> bool:
        """Whether the memory held for an event is as large as what it shows (an op may have resized its output)."""
        try:
            self.read(event)
        except ReplayError:
            return False
        return True

    # ------------------------------------------------------------------ judging

    def faithful(self, call: Call) -> bool | None:
        """Whether executed outputs have the recorded fingerprints; None if there is none to compare."""
        verdict: bool | None = None
        for event in call.writes:
            if event.fingerprint is None or event.storage not in self._held:
                continue
            if content_lanes(self.written(event)) != event.fingerprint.lanes:
                return False
            verdict = True
        return verdict

    def testifies(self, call: Call) -> bool:
        """Whether what the replay holds for a call is the run's own: of this process's run, or recorded."""
        return self.trace.source == "live" or call.index in self._taken

    def adopt_foreign(self, payload: Payload) -> torch.Tensor:
        """A tensor of this framework with a payload's bits."""
        return from_payload(payload)

    def held_in(self, value: torch.Tensor, dtype: str) -> torch.Tensor:
        """A tensor of another dtype, rounded to nearest."""
        return value.detach().to(dtype_of(dtype))

    def copy(self, value: torch.Tensor) -> torch.Tensor:
        """A clone with the same strides."""
        return value.clone()
