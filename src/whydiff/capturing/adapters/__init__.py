"""The contract between the pipeline and the frameworks. Adapters are the only rooms that mention one.

An adapter is one registered object (`Adapter`). It turns a target into a `Run` (live, repeatable) and a trace
into an `Executor` (executes recorded calls again). Values (tensors) are opaque to every other room; they
become `whydiff.records.Payload` when numbers are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from whydiff import registry
from whydiff.errors import UsageError
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Call, Count, Environment, Event, Intervention, Leaf, Lift, ObserverCheck, Payload, Trace

Value = Any
Outputs = Sequence[tuple[str, Value]]
Progress = Callable[[str, int, int], None]


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


class Run(Protocol):
    """A live program that can be run again and again from the same beginning.

    Inputs are copied, random states and every tensor that the program changes are put back after each run.
    """

    def capture(self, *, level: str = "op") -> Trace:
        """Run once instrumented; the trace's leaves stay references to the user's tensors."""

    def plain(self, interventions: Iterable[Intervention] = (), donor: Executor | None = None) -> Outputs:
        """Run without any instrument, under interventions; ``donor`` supplies restored state.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """

    def check(self, trace: Trace) -> ObserverCheck:
        """Plain runs twice against the instrumented one."""

    def supports(self, intervention: Intervention) -> bool:
        """Whether `plain` can carry this intervention out."""


class Executor(Protocol):
    """Executes a recorded trace again, call by call; see ``docs/decisions/0001``."""

    framework: str
    trace: Trace

    def running(self) -> AbstractContextManager[None]: ...
    def execute(self, call: Call, *, recorded: bool = False) -> str: ...
    def apply(self, call: Call, reads: Sequence[Value]) -> Sequence[Value]: ...
    def read(self, event: Event) -> Value: ...
    def written(self, event: Event) -> Value: ...
    def overwrite(self, event: Event, value: Value) -> bool: ...
    def release(self, call: Call) -> None: ...
    def leaf_value(self, leaf: Leaf) -> Value: ...
    def faithful(self, call: Call) -> bool | None: ...
    def same(self, reference: Value, candidate: Value) -> bool: ...
    def payload(self, value: Value) -> Payload: ...
    def adopt_foreign(self, payload: Payload) -> Value: ...

    def counts(self) -> Sequence[Count]:
        """What a lifted replay could not lift, and which discrete choices flipped; nothing if not lifted."""

    def kernels(self, call: Call, reads: Sequence[Value]) -> Sequence[str]:
        """What carries a call out, alone, on given values; nothing where only a library's own output would tell."""

    def testifies(self, call: Call) -> bool:
        """False: what the replay holds for a call was executed alone, which the run did not do."""

    def share_leaves(self, first: Executor) -> None:
        """Read leaves that ``first``, a replay of the same trace one call ahead, holds; may do nothing."""


class RecordedSum(Protocol):
    """A recorded sum, mean, product or convolution that can be evaluated on other terms at its true shape.

    An adapter that can make them has ``recorded_sum(executor, call, reads) -> RecordedSum | None``.

    Output (row, column) is the sum of K products (or plain terms), plus a bias where there is one: term K.

    Attributes:
        rows, columns: of the output as this looks at it; one call evaluates ``columns`` sums.
        leaves: number of terms, bias included.
        plain: ids of terms that are no products although the others are (the bias).
        products: whether the other terms are products.
        takes_factors: whether the factors that a row shares can be chosen.
        dtype, output_dtype: names; the terms' and the output's.
        divisor: the sum is divided by this at the end (mean), 1 otherwise.
    """

    rows: int
    columns: int
    leaves: int
    plain: frozenset[int]
    products: bool
    takes_factors: bool
    dtype: str
    output_dtype: str
    divisor: int

    def outputs(self) -> Any:
        """(rows, columns) float64: the op on its recorded inputs."""

    def evaluate(self, values: Any, factors: Any, row: int, columns: Any) -> Any:
        """(n,) float64: outputs in ``row`` for other terms (n, leaves), read at ``columns`` (int64)."""

    def terms(self, where: Any) -> tuple[Any, Any]:
        """Recorded terms (leaves, S) of the outputs at flat positions: left and right factors (or None)."""


class Adapter(Protocol):
    """One framework."""

    name: str

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Whether a target (or its arguments) belongs to this framework, judged without importing it."""

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a target."""

    def executor(
        self, trace: Trace, *, restore: Mapping[str, Value] | None = None, lift: Lift | None = None
    ) -> Executor:
        """A replay of a trace, with some leaves replaced, and carried out at another precision if asked.

        Adapters that have ``changes_calls = True`` also take ``changes``: call index → `Change` (without lift).

        Raises:
            whydiff.errors.ReplayError: this adapter cannot lift.
        """

    def session(self, **options: Any) -> Any:
        """A context manager that captures what runs in its block into a sink; see `whydiff.capturing.record`."""

    def audit(self, trace: Trace) -> Audit:
        """Ranges of everything that a trace's ops write, by replay (frameworks without it leave it out)."""

    def environment(self) -> Environment:
        """Everything outside the program that can change numbers, now."""


def for_framework(name: str) -> Adapter:
    """The adapter of a framework by name.

    Raises:
        UsageError: there is none.
    """
    return registry.get("adapters", name)  # type: ignore[no-any-return]


def for_target(target: object, args: Sequence[Any] = ()) -> Adapter:
    """The adapter that owns a target; torch is tried last, as the default for plain callables.

    Raises:
        UsageError: nobody owns it, or the framework is not installed.
    """
    if not callable(target):
        raise UsageError(
            "This is neither a callable nor a trace.",
            actual=type(target).__name__,
            expected="a module, a function, or the path of a trace",
        )
    for name in sorted(registry.names("adapters"), key=lambda name: name == "torch"):
        try:
            adapter = for_framework(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("whydiff"):
                raise
            continue
        if adapter.owns(target, args):
            return adapter
    raise UsageError(
        "No installed adapter knows this target.",
        actual=type(target).__name__,
        next_step="install the framework's extra: pip install 'whydiff[torch]' or 'whydiff[jax]'",
    )
