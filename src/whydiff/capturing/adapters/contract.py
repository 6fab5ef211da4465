"""What a framework owes the pipeline, declared: every ability has a place here, and a default that says 'not me'.

An adapter is one registered object. `Recorded` is the whole of what is asked of one, and what a source of recorded
data only (a serving engine's log, another tool's dump) is: its traces are compared, and nothing runs them again.
`Adapter` adds live runs (`Run`) and replays (`Executor`). Values (tensors) are opaque to every other room; they
become `whydiff.records.Payload` when numbers are looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters.roles import Role
from whydiff.capturing.sink import Payloads, Sink, manifest_of, send
from whydiff.errors import UnsupportedError
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import (
    Call,
    Count,
    Environment,
    Event,
    Intervention,
    Leaf,
    Lift,
    ObserverCheck,
    Output,
    Payload,
    Trace,
)

Value = Any
Outputs = Sequence[tuple[str, Value]]
Progress = Callable[[str, int, int], None]
Place = tuple[int | None, str]
"""Position (None: by keyword only) and keyword of an argument."""


@dataclass(frozen=True, slots=True)
class Change:
    """How one call of a replay is carried out differently; see `whydiff.explain.interventions`.

    Attributes:
        dtype: it reads its floating inputs in this dtype, computes in it and keeps what it writes in it; "" for
            the recorded one.
        reads: read position → (first element within the storage, int64 indices): the elements from there on
            are read in this order.
        writes: written slot → flat int64 indices: the result's elements in this order.
        factor: the first result is multiplied by it, rounded once.
    """

    dtype: str = ""
    reads: Mapping[int, tuple[int, Any]] = field(default_factory=dict)
    writes: Mapping[int, Any] = field(default_factory=dict)
    factor: float | None = None


class Exchanged:
    """A trace with some calls exchanged; everything else is the original's."""

    def __init__(self, trace: Trace, calls: Mapping[int, Call]) -> None:
        self._trace = trace
        self.calls = tuple(calls.get(call.index, call) for call in trace.calls)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trace, name)


class Session(ABC):
    """Captures what runs inside its ``with`` block into a sink."""

    @abstractmethod
    def __enter__(self) -> Session: ...

    @abstractmethod
    def __exit__(self, *exception: Any) -> None: ...

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What the trace's writer is closed with, after the block."""


class Run(ABC):
    """A live program that can be run again and again from the same beginning.

    Inputs are copied, random states and every tensor that the program changes are put back after each run.
    """

    framework: str

    @abstractmethod
    def anchor(self) -> tuple[Output, ...]:
        """Everything the program gives back, of any type, when it runs plainly before anything else (remembered).

        Raises:
            whydiff.errors.TargetError: the program raised.
        """

    @abstractmethod
    def capture(self, *, level: str = "op") -> Trace:
        """Run once instrumented; the trace's leaves stay references to the user's tensors."""

    @abstractmethod
    def plain(self, interventions: Iterable[Intervention] = (), donor: Executor | None = None) -> Outputs:
        """Run without any instrument, under interventions; ``donor`` supplies restored state.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """

    @abstractmethod
    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """Plain runs against the instrumented one that `capture` or `record` made before."""

    def supports(self, intervention: Intervention) -> bool:
        """Whether `plain` can carry this intervention out."""
        return False

    def record(
        self, sink: Sink, *, level: str = "op", payloads: Payloads = "all", check: bool = True
    ) -> dict[str, Any]:
        """Run once instrumented into a sink, with outputs named as by `capture`; step by step where that is possible.

        Args:
            sink: receives calls, leaves, contexts and full tensors.
            level: ``"op"`` or ``"module"``.
            payloads: ``"all"``, ``"none"`` or globs over sites.
            check: also run plainly, for the observer check.

        Returns:
            What the trace's writer is closed with.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """
        trace = self.capture(level=level)
        send(trace, sink, payloads)
        return manifest_of(trace) | ({"observer": self.check(trace)} if check else {})

    def audit(self, rewrites: Iterable[Intervention] = ()) -> tuple[Audit, Outputs]:
        """Run once under a range recorder, with ops rewritten where asked.

        Raises:
            UnsupportedError: the framework has no range recorder.
        """
        raise UnsupportedError("This framework has no range recorder yet.", actual=self.framework, expected="torch")


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

    @abstractmethod
    def payload(self, value: Value) -> Payload:
        """A host copy."""

    @abstractmethod
    def adopt_foreign(self, payload: Payload) -> Value:
        """A value of this framework with a payload's bits."""

    @abstractmethod
    def copy(self, value: Value) -> Value:
        """A value of its own memory, with the same layout where the framework has layouts."""

    def put(self, value: Value, index: Any, part: Value) -> Value:
        """A copy of a value in which ``value[index]`` is another one."""
        changed = self.copy(value)
        changed[index] = part
        return changed

    def counts(self) -> Sequence[Count]:
        """What a lifted replay could not lift, and which discrete choices flipped; nothing if not lifted."""
        return ()

    def kernels(self, call: Call, reads: Sequence[Value]) -> Sequence[str]:
        """What carries a call out, alone, on given values; nothing where only a library's own output would tell."""
        return ()

    def testifies(self, call: Call) -> bool:
        """False: what the replay holds for a call was executed alone, which the run did not do."""
        return True

    def share_leaves(self, first: Executor) -> None:
        """Read leaves that ``first``, a replay of the same trace one call ahead, holds; may do nothing."""
        return None


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


class Recorded:
    """A source of recorded data: a `Trace` and its payloads, no run and no executor.

    Args:
        name: what the traces' ``framework`` says.

    Attributes:
        remedies: names that `remedy` carries out.
        changes_calls: whether `executor` takes ``changes``.
        operators: part → names of the operators that play it, as in sites.
    """

    name: str = ""
    remedies: frozenset[str] = frozenset()
    operators: Mapping[Role, tuple[str, ...]] = {}
    changes_calls = False

    def __init__(self, name: str = "") -> None:
        self.name = name or self.name

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Whether a target (or its arguments) belongs to this framework, judged without importing it."""
        return False

    def replayable(self, trace: Trace) -> str:
        """Why a trace cannot be executed again; empty if it can."""
        return f"{self.name} keeps recorded data only"

    def roles(self, op: str) -> frozenset[Role]:
        """What parts an operator (named as in a site) plays in a program; empty if nobody said."""
        return frozenset(role for role, names in self.operators.items() if op in names)

    def places(self, op: str) -> Mapping[str, Place]:
        """Where an operator takes what: meaning (``"left"``, ``"eps"``, ``"axis"`` …) → its argument."""
        return {}

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a target.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("run a program")

    def executor(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, Value] | None = None,
        lift: Lift | None = None,
        changes: Mapping[int, Change] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> Executor:
        """A replay of a trace.

        Args:
            trace: for which `replayable` has no objection.
            restore: leaf name → the value that takes its place.
            lift: carry everything out at another precision.
            changes: call index → how it is carried out (without ``lift``; where ``changes_calls`` is true).
            exchanged: call index → the call that takes its place.

        Raises:
            UnsupportedError: this keeps recorded data only.
            whydiff.errors.ReplayError: this adapter cannot lift.
        """
        raise self._cannot("execute a trace again")

    def session(self, **options: Any) -> Session:
        """A context manager that captures what runs in its block into a sink; see `whydiff.capturing.record`.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("capture a program")

    def environment(self) -> Environment:
        """Everything outside the program that can change numbers, now."""
        return Environment()

    def to_payload(self, value: Value) -> Payload:
        """A host copy of a value.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("read live values")

    def audit(self, trace: Trace) -> Audit | None:
        """Ranges of everything that a trace's ops write, by replay; None: this cannot tell."""
        return None

    def kernels(self, executor: Executor, call: Call, reads: Sequence[Value]) -> Sequence[str]:
        """What carries a call out on given values, even if that means listening to a library's output."""
        return executor.kernels(call, reads)

    def recorded_sum(self, executor: Executor, call: Call, reads: Sequence[Value]) -> RecordedSum | None:
        """A call as a sum whose terms can be chosen; None: it is none, or this cannot evaluate it."""
        return None

    def remedy(self, name: str, ops: Sequence[str], value: Any = None) -> AbstractContextManager[Any]:
        """A mode of plain runs in which the named ops are carried out in another way.

        Args:
            name: one of ``remedies``.
            ops: operator names as in sites.
            value: rows of a piece, a dtype's name, a backend's name.

        Raises:
            whydiff.errors.UsageError: there is no such remedy, or it cannot be applied to one of the ops.
        """
        raise self._cannot(f"carry {name!r} out")

    def under(self, flags: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Process-wide switches set for the length of a block; a framework without any has nothing to set."""
        return nullcontext()

    def laid_out(self, value: Any, layout: str) -> Any:
        """Nested arguments copied into another memory layout.

        Raises:
            UnsupportedError: the framework's values have no layouts.
        """
        raise self._cannot(f"lay values out as {layout!r}")

    def checkpoint(self, path: Path) -> Any:
        """(name → (payload, whether it is mapped), scalars, skipped names) of the framework's own file format.

        Raises:
            UnsupportedError: it has none that is read here.
        """
        raise self._cannot("read checkpoints")

    def evaluate(
        self,
        formula: Any,
        inputs: Sequence[Any],
        dtype: str,
        scale: float,
        device: str,
        *,
        repeats: int = 1,
        oracle: bool = False,
    ) -> tuple[Payload, float]:
        """A formula on scaled inputs: its output and seconds; the oracle carries the rounded inputs in float64.

        Raises:
            UnsupportedError: formulas of this framework are not compared here.
        """
        raise self._cannot("evaluate formulas")

    def _cannot(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"This framework's adapter cannot {what}.", actual=self.name or type(self).__name__)


class Adapter(Recorded, ABC):
    """A framework whose programs are run, captured and executed again."""

    def replayable(self, trace: Trace) -> str:
        """Why a trace cannot be executed again; empty if it can."""
        if trace.level != "op":
            return "it was captured at module level"
        missing = [
            leaf.name
            for leaf in trace.leaves
            if leaf.storage >= 0 and not leaf.skipped and not leaf.payload and leaf.name not in trace.handles
        ]
        return f"it holds no payload of {len(missing)} leaves, e.g. {missing[0]}" if missing else ""

    @abstractmethod
    def owns(self, target: object, args: Sequence[Any]) -> bool: ...

    @abstractmethod
    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run: ...

    @abstractmethod
    def executor(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, Value] | None = None,
        lift: Lift | None = None,
        changes: Mapping[int, Change] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> Executor: ...

    @abstractmethod
    def session(self, **options: Any) -> Session: ...

    @abstractmethod
    def environment(self) -> Environment: ...

    @abstractmethod
    def to_payload(self, value: Value) -> Payload: ...
