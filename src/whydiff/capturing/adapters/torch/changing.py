"""Replays in which single calls are carried out differently: another dtype, other layouts, another scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters._live import FAILURES, short
from whydiff.capturing.adapters.contract import Change, in_another_dtype
from whydiff.capturing.adapters.torch.dtypes import dtype_of
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.held import flat
from whydiff.capturing.adapters.torch.operators import draws, find
from whydiff.errors import ReplayError
from whydiff.records import Call, Event, Trace


class ChangedExecutor(Executor):
    """Replays one trace with changed calls; see `whydiff.capturing.adapters.Change`.

    What a call writes in another dtype is kept in that dtype; calls that are not changed read it rounded to
    the dtype that they recorded.

    Args:
        trace: what to replay.
        changes: call index → how it is carried out.
        restore, exchanged: as for `Executor`.
    """

    def __init__(
        self,
        trace: Trace,
        changes: Mapping[int, Change],
        *,
        restore: Mapping[str, torch.Tensor] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore=restore, exchanged=exchanged)
        self._how = dict(changes)
        self._as_held = in_another_dtype(trace, changes)

    def _manner(self) -> None:
        """Of its own."""

    def read(self, event: Event) -> torch.Tensor:
        """As `Executor.read`; rounded to the recorded dtype unless a changed call reads or writes it."""
        value = super().read(event)
        recorded = dtype_of(event.spec.dtype)
        return value if value.dtype is recorded or event.site in self._as_held else value.to(recorded)

    def _held_dtype(self, event: Event) -> torch.dtype:
        recorded = super()._held_dtype(event)
        return dtype_of(self._as_held.get(event.site, event.spec.dtype)) if recorded.is_floating_point else recorded

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """As `Executor.execute`, with the call's change."""
        how = self._how.get(call.index)
        if how is None or call.kind != "compute":
            return super().execute(call, recorded=recorded and not self._how)
        self._other.update(event.storage for event in call.writes if not event.is_look)
        try:
            return self._differently(call, how)
        except FAILURES as error:
            return short(error)

    def _differently(self, call: Call, how: Change) -> str:
        reads = [
            self._rearranged(event, how.reads[i]) if i in how.reads else self.read(event)
            for i, event in enumerate(call.reads)
        ]
        if how.dtype:
            outputs = self._in_dtype(call, reads, dtype_of(how.dtype))
        else:
            if call.mutates and any(i in how.reads for i in call.mutates):
                raise ReplayError("A read that the call changes cannot be rearranged.", where=str(call.site))
            outputs = self.carried_out(call, reads)
        why = self._adopt_all(call, outputs)
        for slot, event in enumerate(call.writes):
            if why or event.storage not in self._held:
                continue
            value = self.read(event)
            if slot in how.writes:
                place = torch.as_tensor(how.writes[slot], device=value.device)
                value.copy_(value.reshape(-1)[place].reshape(value.shape))
            if how.offset is not None and slot == 0:
                value.add_(how.offset)
        return why

    def _rearranged(self, event: Event, how: tuple[int, Any]) -> torch.Tensor:
        """A look at a copy of the storage whose elements from an offset on stand in another order."""
        offset, places = how
        held = self._held.get(event.storage)
        if held is None:
            held = self._held[event.storage] = self._load(event)
        start = offset - held.shift
        line = torch.empty(0, dtype=held.dtype, device=held.whole.device).set_(
            held.storage, 0, (held.storage.nbytes() // held.dtype.itemsize,), (1,)
        )
        moved = line.clone()
        moved[start : start + len(places)] = line[start + torch.as_tensor(places, device=line.device)]
        spec = event.spec
        return moved.as_strided(spec.shape, spec.strides, spec.offset - held.shift).clone(
            memory_format=torch.contiguous_format
        )

    def _in_dtype(self, call: Call, reads: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
        func = find(call.target, trusted=self.trusted)
        if draws(func, *call.arguments):
            raise ReplayError("A random op draws other numbers in another dtype.", where=str(call.site))
        cast = [read.to(dtype) if read.is_floating_point() else read for read in reads]
        cast = [
            c.clone() if i in call.mutates and c is r else c for i, (c, r) in enumerate(zip(cast, reads, strict=True))
        ]
        if not self.trusted:
            self._hold(func, call, *self._arguments(call, cast))
        given, named = self._arguments(call, cast)
        args = [_with_dtype(item, dtype) for item in given]
        kwargs = {name: _with_dtype(item, dtype) for name, item in named.items()}
        for position, argument in enumerate(func._schema.arguments):
            if argument.name == "half_to_float" and position < len(args):
                args[position] = False
        self._switch(call)
        outputs = list(flat(func(*args, **kwargs)))
        for position in call.mutates:
            self._keep(call.reads[position], reads[position], cast[position])
        memory = {read.untyped_storage()._cdata for read in reads if read.layout is torch.strided}
        return [t.clone() if t.untyped_storage()._cdata in memory else t for t in outputs]

    def _keep(self, event: Event, read: torch.Tensor, value: torch.Tensor) -> None:
        """Keep what was written in place in its dtype, if it is all that the memory holds; else as the memory can."""
        held = self._held.get(event.storage)
        if held is not None and held.dtype is not value.dtype and held.whole.numel() == event.spec.numel:
            self._adopt(event, value, fresh=True)
        else:
            read.copy_(value)


def _with_dtype(value: Any, dtype: torch.dtype) -> Any:
    return dtype if isinstance(value, torch.dtype) and value.is_floating_point else value
