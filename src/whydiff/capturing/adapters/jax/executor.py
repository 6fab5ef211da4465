"""Executes a recorded trace again, equation by equation, keeping only the values that are still needed.

A compiled program fuses its equations, and an equation executed alone may round where the fused one did not. So
the replay is made of what the run itself computed, as far as that goes: a call whose inputs are what they were
in the run gives what the run recorded; only a call that is given something else is executed, alone. Where
executing a call alone on its recorded inputs does not give its recorded output, `faithful` says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np

from whydiff.capturing.adapters._live import FAILURES, ArrayReplay, short
from whydiff.capturing.adapters.contract import FUSED
from whydiff.capturing.adapters.jax import internals, values
from whydiff.capturing.adapters.jax.arguments import edited, op_of, taken, template
from whydiff.capturing.adapters.jax.kernels import kernels
from whydiff.capturing.adapters.jax.lifting import Lifter, floating
from whydiff.capturing.adapters.jax.ops import Op
from whydiff.errors import PayloadError
from whydiff.records import Call, Count, Event, Leaf, Lift, Payload, Trace

_CONTRACTING = ("dot_general", "ragged_dot_general", "conv_general_dilated")


class Executor(ArrayReplay):
    """Replays one trace.

    Args:
        trace: leaves, recorded values and equations come from its ``handles`` (live), else from payloads.
        restore: leaf name → array that takes the place of the recorded leaf.
        lift: carry everything out at another precision.
        exchanged: call index → the call that takes its place.
    """

    framework = "jax"

    def __init__(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, Any] | None = None,
        lift: Lift | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> None:
        super().__init__(trace, restore, exchanged)
        self.lifter = Lifter(lift) if lift is not None else None
        self._payloads: dict[int, str] = {
            event.storage: event.payload for call in trace.calls for event in call.writes if event.payload
        }
        self._ops: dict[int, Op] = {}
        self._repeats: dict[int, bool | None] = {}

    # ------------------------------------------------------------------ running

    @contextmanager
    def running(self) -> Iterator[None]:
        """The state in which equations are executed."""
        with ExitStack() as stack:
            if self.lifter is not None:
                stack.enter_context(self.lifter.context())
            yield

    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after a call.

        Args:
            call: the next call of the trace.
            recorded: unused; what the run recorded is taken on either side wherever its inputs are the run's.

        Returns:
            Why the call could not be executed; empty if it was.
        """
        if call.kind != "compute":
            return ""
        same_inputs = self.lifter is None and self._reads_as_in_the_run(call)
        if same_inputs and self._as_recorded(call):
            return ""
        try:
            outs = self.apply(call, [self.read(event) for event in call.reads])
        except FAILURES as error:
            if self._as_recorded(call):
                return f"taken as recorded: {short(error)}"
            return short(error)
        for event, out in zip(call.writes, outs, strict=True):
            if event.storage >= 0:
                self._put(event.storage, out, same_inputs)
        return ""

    def _as_recorded(self, call: Call) -> bool:
        found = {e.storage: self._recorded(e.storage) for e in call.writes if e.storage >= 0}
        if any(value is None for value in found.values()):
            return False
        if self.lifter is not None:
            found = {storage: self.lifter.widen(value) for storage, value in found.items()}
        self._held.update(found)
        self._changed.difference_update(found)
        return True

    def _put(self, storage: int, value: Any, same_inputs: bool) -> None:
        self._held[storage] = value
        if self.lifter is not None or same_inputs:
            return
        recorded = self._recorded(storage)
        if recorded is not None and values.equal(recorded, value):
            self._changed.discard(storage)
        else:
            self._changed.add(storage)

    def _recorded(self, storage: int) -> Any:
        """What the run computed; None if it was not kept."""
        value = self._handles.get(f"value/{storage}")
        if value is not None:
            return values.host(value)
        key = self._payloads.get(storage)
        payload = self.trace.payload(key) if key else None
        return None if payload is None else values.from_payload(payload)

    def carried_out(self, call: Call, reads: Sequence[Any]) -> list[Any]:
        """Execute a call's equation alone on given values.

        Raises:
            ReplayError, TypeError, RuntimeError …: whatever looking it up or executing it raises.
        """
        if call.target == FUSED:
            return [self.fused(call, reads)]
        op = self._op(call)
        if self._bounds is not None:
            self._bounds.call(call, op.name in _CONTRACTING)
        if call.index in self._edited:
            reads = taken(call, reads)
        if self.lifter is not None:
            return [values.host(out) for out in self.lifter.apply(op, call, reads)]
        return [values.host(out) for out in op.apply(reads)]

    def kernels(self, call: Call, reads: Sequence[Any]) -> list[str]:
        """What XLA carries a call's equation out by, compiled alone for these values."""
        return kernels(self._op(call), reads)

    def _op(self, call: Call) -> Op:
        op = self._ops.get(call.index)
        if op is None:
            op = self._handles.get(f"call/{call.index}") or self._from_record(call)
            if call.index in self._edited and call.arguments != template(op):
                op = edited(op, call)
            self._ops[call.index] = op
        return op

    def _from_record(self, call: Call) -> Op:
        op = op_of(call)
        if self._bounds is not None and op.primitive is not None:
            self._bounds.call(call, op.name in _CONTRACTING)
            internals.check(op.primitive, op.inputs, op.params, op.outputs)
        return op

    # ------------------------------------------------------------------ values

    def read(self, event: Event) -> Any:
        """The value an event looks at, as it is now in the replay; PRNG keys as their key data.

        Raises:
            PayloadError: its leaf was not kept, or the call that made it could not be executed.
        """
        if event.site in self._stand_ins:
            return self._stand_ins[event.site]
        if self._bounds is not None:
            self._bounds.look(event.spec, event.site)
        if event.storage not in self._held:
            self._held[event.storage] = self._load(event)
        return self._held[event.storage]

    def _load(self, event: Event) -> Any:
        value = self.leaf_value(self._leaf_at(event))
        return value if self.lifter is None else self.lifter.widen(value)

    def leaf_value(self, leaf: Leaf) -> Any:
        """A leaf's value at the beginning of the run."""
        if leaf.name in self._restore:
            return _own(self._restore[leaf.name], leaf)
        value = self._handles.get(leaf.name)
        if value is not None:
            return values.host(value)
        return values.from_payload(self._kept(leaf))

    def overwrite(self, event: Event, value: Any) -> bool:
        """Give the replay another value in an event's place; False for leaves and for other shapes."""
        if tuple(value.shape) != event.spec.shape or event.storage in self._leaves or event.storage < 0:
            return False
        with self.running():
            self._put(event.storage, self._in_dtype(event, value), False)
        return True

    def stand_in(self, event: Event, value: Any) -> bool:
        """Give one read another value; False for another shape."""
        if tuple(value.shape) != event.spec.shape:
            return False
        with self.running():
            self._stand_ins[event.site] = self._in_dtype(event, value)
        return True

    def _in_dtype(self, event: Event, value: Any) -> Any:
        """A value in the dtype that this replay holds an event's in."""
        wanted = np.dtype(event.spec.dtype)
        if self.lifter is not None and floating(event.spec.dtype):
            wanted = self.lifter.dtype(wanted)
        return value if value.dtype == wanted else value.astype(wanted)

    # ------------------------------------------------------------------ judging

    def faithful(self, call: Call) -> bool | None:
        """Whether the call, executed alone on its recorded inputs, gives its recorded bits; None: unknown."""
        if self.lifter is not None or call.kind != "compute":
            return None
        if call.index not in self._repeats:
            memo = self._handles.get("repeats")
            known = memo.get(call.index) if isinstance(memo, dict) else None
            self._repeats[call.index] = known if known is not None else self._try(call)
            if isinstance(memo, dict):
                memo[call.index] = self._repeats[call.index]
        return self._repeats[call.index]

    def _try(self, call: Call) -> bool | None:
        if any(event.fingerprint is None for event in call.writes) or not call.writes:
            return None
        try:
            reads = [self._as_it_was(event) for event in call.reads]
            outs = self.apply(call, reads)
        except FAILURES:
            return None
        return all(
            values.fingerprint(values.host(out)) == event.fingerprint
            for out, event in zip(outs, call.writes, strict=True)
        )

    def _as_it_was(self, event: Event) -> Any:
        recorded = self._recorded(event.storage)
        if recorded is None and event.storage in self._leaves:
            recorded = self.leaf_value(self._leaves[event.storage][0])
        if recorded is None and event.storage not in self._changed:
            recorded = self.read(event)
        if recorded is None:
            raise PayloadError("The recorded value was not kept.", where=str(event.site))
        return recorded

    def same(self, reference: Any, candidate: Any) -> bool:
        """True if no bit differs; across dtypes, if every value is equal."""
        return values.equal(reference, candidate)

    def payload(self, value: Any) -> Payload:
        """A host copy."""
        return values.to_payload(value)

    def adopt_foreign(self, payload: Payload) -> Any:
        """A host array with a payload's bits."""
        return values.from_payload(payload)

    def held_in(self, value: Any, dtype: str) -> Any:
        """A host array of another dtype, rounded to nearest."""
        return values.host(value).astype(np.dtype(dtype))

    def copy(self, value: Any) -> Any:
        """A host array of its own."""
        return np.array(values.host(value))

    def counts(self) -> tuple[Count, ...]:
        """What a lifted replay could not lift."""
        return () if self.lifter is None else self.lifter.counts()


def _own(value: Any, leaf: Leaf) -> Any:
    """A restored value as JAX takes it; another framework's is not."""
    if not isinstance(value, (jax.Array, np.ndarray)):
        raise PayloadError("This is not an array of JAX or numpy.", where=leaf.name, actual=type(value).__name__)
    return value
