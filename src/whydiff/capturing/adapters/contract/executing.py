"""Executing a recorded trace again, and what may be asked of one call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from whydiff.errors import ReplayError
from whydiff.numbers.comparison import compare_payloads
from whydiff.numbers.fused import fused_multiply_add
from whydiff.numbers.metrics import common_dtype, measure, values
from whydiff.numbers.pieces import mean_and_excess
from whydiff.records import Call, Comparison, Count, Event, Leaf, Lift, Payload, Site, Trace

Value = Any
FUSED = "whydiff.fused_multiply_add"
"""Target of a call that an experiment makes: operands left, right and added (reads or numbers), and their signs."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a replay carries out calls in which nothing is changed: two of one manner give the same values.

    Attributes:
        lift: None: as recorded.
    """

    lift: Lift | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """How one call of a replay is carried out differently; see `whydiff.explain.interventions`.

    Attributes:
        dtype: it reads its floating inputs in this dtype, computes in it and keeps what it writes in it; "" for
            the recorded one.
        reads: read position → (first element within the storage, int64 indices): the elements from there on
            are read in this order.
        writes: written slot → flat int64 indices: the result's elements in this order.
        offset: it is added to the first result.
    """

    dtype: str = ""
    reads: Mapping[int, tuple[int, Any]] = field(default_factory=dict)
    writes: Mapping[int, Any] = field(default_factory=dict)
    offset: int | None = None


def in_another_dtype(trace: Trace, changes: Mapping[int, Change]) -> dict[Site, str]:
    """Where calls read and write that are carried out in another dtype, and in which: there values are as they hold them."""
    return {
        event.site: change.dtype
        for index, change in changes.items()
        if change.dtype
        for event in (*trace.calls[index].reads, *trace.calls[index].writes)
    }


def retyped(template: Any, dtypes: Mapping[str, str]) -> Any:
    """A call's arguments (`whydiff.records.Call`) in which dtypes are others.

    Args:
        template: as recorded; a dtype in it is ``{"$dtype": name}``.
        dtypes: name → the name that takes its place.
    """
    if isinstance(template, (list, tuple)):
        return [retyped(item, dtypes) for item in template]
    if not isinstance(template, Mapping):
        return template
    return {
        key: dtypes.get(item, item) if key == "$dtype" and isinstance(item, str) else retyped(item, dtypes)
        for key, item in template.items()
    }


class Exchanged:
    """A trace with other calls, or in another order; everything else is the original's."""

    def __init__(self, trace: Trace, calls: Iterable[Call]) -> None:
        self._trace, self.calls = trace, tuple(calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)


class Executor(ABC):
    """Executes a recorded trace again, call by call; see ``docs/decisions/0001``.

    Attributes:
        framework: the adapter's name.
        trace: what is replayed, with the calls that were exchanged.
    """

    framework: str
    trace: Trace

    @abstractmethod
    def running(self) -> AbstractContextManager[None]:
        """The state in which recorded calls are executed."""

    @abstractmethod
    def execute(self, call: Call, *, recorded: bool = False) -> str:
        """Bring the replay to the state after the next call; why that could not be done, or nothing.

        Args:
            call: the next call of the trace.
            recorded: take written values from the trace's payloads where it has them.
        """

    @abstractmethod
    def apply(self, call: Call, reads: Sequence[Value]) -> Sequence[Value]:
        """Execute a call's operation on given values; changes mutated ones in place, touches nothing else.

        Raises:
            ReplayError, LookupError, RuntimeError …: whatever looking it up or executing it raises.
        """

    @abstractmethod
    def read(self, event: Event) -> Value:
        """What an event looks at, as it is now in the replay.

        Raises:
            whydiff.errors.PayloadError: its leaf was not kept, or the call that made it could not be executed.
        """

    def written(self, event: Event) -> Value:
        """What a call wrote, as it is now."""
        return self.read(event)

    @abstractmethod
    def overwrite(self, event: Event, value: Value) -> bool:
        """Give the replay another value in an event's place; False if that cannot be."""

    def stand_in(self, event: Event, value: Value) -> bool:
        """Give one read another value, which no other read of the same memory sees; False if that cannot be."""
        return self.overwrite(event, value)

    def give(self, call: Call, value: Value) -> None:
        """Let a call that is still to come write this instead of what its operation makes.

        Raises:
            ReplayError: this replay cannot.
        """
        raise ReplayError("This replay cannot be given what a call writes.", where=str(call.site))

    def take_over(self, call: Call, other: Executor, made: Call) -> bool:
        """Write what another replay holds of a call of its own, the same op on equal values; False: carry it out.

        Both replays then hold one value, which neither changes.
        """
        return False

    def receive(self, call: Call, values: Sequence[Value]) -> None:
        """Let a collective that is still to come write these, one for each of its writes.

        Raises:
            ReplayError: this replay cannot.
        """
        raise ReplayError("This replay cannot be given what a collective writes.", where=str(call.site))

    @abstractmethod
    def release(self, call: Call) -> None:
        """Forget what no later call needs. Call it after the values of a call were used."""

    @abstractmethod
    def leaf_value(self, leaf: Leaf) -> Value:
        """A leaf's value at the beginning of the run (never to be written to)."""

    @abstractmethod
    def faithful(self, call: Call) -> bool | None:
        """Whether executed outputs have the recorded fingerprints; None if there is none to compare."""

    @abstractmethod
    def same(self, reference: Value, candidate: Value) -> bool:
        """True if no bit differs; across dtypes, if every value is equal."""

    def apart(self, one: Value, other: Value) -> float:
        """Mean of ``abs(one - other)`` over pairs of finite values of one shape; 0 where no dtype holds both sides'."""
        payloads = self.payload(one), self.payload(other)
        if common_dtype(*(payload.dtype for payload in payloads)) is None:
            return 0.0
        found = measure(*payloads)
        return found.sum_abs / found.finite if found.finite else 0.0

    def mean_and_excess(self, reference: Value, candidate: Value, rtol: float) -> tuple[float, float]:
        """`whydiff.numbers.pieces.mean_and_excess` of two floating values of one shape."""
        return mean_and_excess(self.payload(reference), self.payload(candidate), rtol)

    def compare(self, reference: Value, candidate: Value, of: Executor) -> Comparison:
        """`compare_payloads` of a value and one of another replay, which may be of another framework."""
        return compare_payloads(self.payload(reference), of.payload(candidate))

    @abstractmethod
    def payload(self, value: Value) -> Payload:
        """A host copy."""

    @abstractmethod
    def adopt_foreign(self, payload: Payload) -> Value:
        """A value of this framework with a payload's bits."""

    def adopt_beside(self, payload: Payload, value: Value) -> Value:
        """`adopt_foreign`, and where another value lies."""
        return self.adopt_foreign(payload)

    def held_in(self, value: Value, dtype: str) -> Value:
        """A value cast once to another dtype, as the framework casts it; itself if it has that dtype.

        Raises:
            ReplayError: this replay cannot.
        """
        raise ReplayError("This replay cannot hold a value in another dtype.", expected=dtype)

    @abstractmethod
    def copy(self, value: Value) -> Value:
        """A value of its own memory, with the same layout where the framework has layouts."""

    def put(self, value: Value, index: Any, part: Value) -> Value:
        """A copy of a value in which ``value[index]`` is another one."""
        changed = self.copy(value)
        changed[index] = part
        return changed

    def fused(self, call: Call, reads: Sequence[Value]) -> Value:
        """What a call to `FUSED` gives: ``sign * left * right + other * added``, rounded once."""
        (left, right, added), signs = call.arguments
        given = [np.asarray(self._operand(item, reads), np.float64) for item in (left, right, added)]
        dtype = call.writes[0].spec.dtype
        total = fused_multiply_add(signs["product"] * given[0], given[1], signs["added"] * given[2], dtype)
        return self.adopt_foreign(Payload(np.ascontiguousarray(total.astype(dtype)), dtype))

    def _operand(self, item: Any, reads: Sequence[Value]) -> Any:
        if not isinstance(item, dict):
            return item
        payload = self.payload(reads[item["$read"]])
        return values(payload.bits, payload.dtype)

    def counts(self) -> Sequence[Count]:
        """What a lifted replay could not lift, and which discrete choices flipped; nothing if not lifted."""
        return ()

    def kernels(self, call: Call, reads: Sequence[Value]) -> Sequence[str]:
        """What carries a call out, alone, on given values; nothing where only a library's own output would tell."""
        return ()

    def testifies(self, call: Call) -> bool:
        """False: what the replay holds for a call was executed alone or elsewhere, which the run did not do."""
        return True

    def part(self, event: Event) -> None:
        """Execute what reads this from now on, although it is what the run had; may do nothing."""
        return None

    def manner_until(self, count: int) -> Manner | None:
        """How the first calls are carried out.

        None: something is changed there, or this replay cannot begin where another one stands.
        """
        return None

    def keep(self, storages: Collection[int]) -> None:
        """Forget none of these; may do nothing where `manner_until` gives None."""
        return None

    def standing(self, most: int) -> Any:
        """Where it stands, for `take_up`; None if it cannot tell, or that is more than so many bytes."""
        return None

    def lacks(self, standing: Any, count: int) -> bool:
        """Whether it needs what another replay of the same manner did not hold any more after so many calls."""
        return True

    def take_up(self, standing: Any) -> None:
        """Begin there."""
        return None

    def share_leaves(self, first: Executor) -> None:
        """Read leaves that ``first``, a replay of the same trace one call ahead, holds; may do nothing."""
        return None

    def execute_together(self, others: Sequence[Executor], call: Call) -> list[str]:
        """`execute` a call in this replay and in others of the same trace that share its leaves; what each answers.

        Every replay gives what it would give alone.
        """
        return [one.execute(call) for one in (self, *others)]


class RecordedSum(ABC):
    """A recorded sum, mean, product or convolution that can be evaluated on other terms at its true shape.

    Output (row, column) is the sum of K products (or plain terms), plus a bias where there is one: term K.

    Attributes:
        rows, columns: of the output as this looks at it; one call evaluates ``columns`` sums.
        leaves: number of terms, bias included.
        plain: ids of terms that are no products although the others are (the bias).
        products: whether the other terms are products.
        dtype, output_dtype: names; the terms' and the output's.
        divisor: the sum is divided by this at the end (mean), 1 otherwise.
    """

    rows: int
    columns: int
    leaves: int
    plain: frozenset[int]
    products: bool
    dtype: str
    output_dtype: str
    divisor: int

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two sums must have in common for their orders to be compared."""
        return self.leaves, self.plain, self.products, self.dtype, self.output_dtype, self.divisor

    @property
    @abstractmethod
    def takes_factors(self) -> bool:
        """Whether the factors that a row shares can be chosen."""

    @abstractmethod
    def outputs(self) -> Any:
        """(rows, columns) float64: the op on its recorded inputs."""

    @abstractmethod
    def evaluate(self, values: Any, factors: Any, row: int, columns: Any) -> Any:
        """(n,) float64: outputs in ``row`` for other terms (n, leaves), read at ``columns`` (int64)."""

    @abstractmethod
    def terms(self, where: Any) -> tuple[Any, Any]:
        """Recorded terms (leaves, S) of the outputs at flat positions: left and right factors (or None)."""
