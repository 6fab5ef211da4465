"""Replays in which single equations are carried out differently: in another dtype, in another order, shifted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from whydiff.capturing.adapters._live import FAILURES, short
from whydiff.capturing.adapters.contract import FUSED, Change, in_another_dtype
from whydiff.capturing.adapters.jax import internals
from whydiff.capturing.adapters.jax.executor import Executor
from whydiff.capturing.adapters.jax.lifting import carried_in, floating, stays
from whydiff.capturing.adapters.jax.ops import MOVES, Op
from whydiff.errors import ReplayError
from whydiff.records import Call, Event, Trace


class ChangedExecutor(Executor):
    """Replays one trace with changed calls; see `whydiff.capturing.adapters.Change`.

    What a call writes in another dtype is kept in it; calls that are not changed read it rounded to the recorded one.

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
        restore: Mapping[str, Any] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore=restore, exchanged=exchanged)
        self._how = dict(changes)
        self._as_held = in_another_dtype(trace, changes)

    @contextmanager
    def running(self) -> Iterator[None]:
        """As `Executor.running`; with 64-bit dtypes, where a call is carried out in one."""
        wide = any(how.dtype == "float64" for how in self._how.values())
        with super().running(), internals.x64(True) if wide else nullcontext():
            yield

    def read(self, event: Event) -> Any:
        """As `Executor.read`; rounded to the recorded dtype unless a changed call reads or writes it."""
        value = super().read(event)
        rounded = _is_real(event.spec.dtype) and event.site not in self._as_held
        return self._in_dtype(event, value) if rounded else value

    def _in_dtype(self, event: Event, value: Any) -> Any:
        held = self._as_held.get(event.site, "") if _is_real(event.spec.dtype) else ""
        return value.astype(np.dtype(held)) if held else super()._in_dtype(event, value)

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """As `Executor.execute`, with the call's change."""
        how = self._how.get(call.index)
        if how is None or call.kind != "compute":
            return super().execute(call, recorded=recorded)
        try:
            outs = self.apply(call, [_rearranged(self.read(e), how.reads.get(i)) for i, e in enumerate(call.reads)])
        except FAILURES as error:
            return short(error)
        for slot, (event, out) in enumerate(zip(call.writes, outs, strict=True)):
            if event.storage >= 0:
                places = how.writes.get(slot)
                self._put(event.storage, _moved(out, places, how if slot == 0 else Change()), False)
        return ""

    def _op(self, call: Call) -> Op:
        op, how = super()._op(call), self._how.get(call.index)
        if how is None or not how.dtype or op.name in MOVES:
            return op
        if call.target == FUSED or stays(op):
            raise ReplayError("This op has no other precision.", where=str(call.site))
        wanted = np.dtype(how.dtype)
        return carried_in(op, lambda recorded: wanted if _is_real(recorded) else recorded, highest=False)


def _is_real(dtype: Any) -> bool:
    return floating(dtype) and not str(dtype).startswith("complex")


def _rearranged(value: Any, how: tuple[int, Any] | None) -> Any:
    """A value whose elements from an offset on stand in another order."""
    if how is None:
        return value
    start, places = how
    line = np.array(value).reshape(-1)
    line[start : start + len(places)] = line[start + np.asarray(places)]
    return line.reshape(value.shape)


def _moved(value: Any, places: Any, how: Change) -> Any:
    """A result in another order, and shifted."""
    if places is not None:
        value = np.asarray(value).reshape(-1)[np.asarray(places)].reshape(value.shape)
    return value if how.offset is None else value + np.asarray(how.offset, value.dtype)
