"""What a framework owes the pipeline, declared: every ability has a place here, and a default that says 'not me'.

An adapter is one registered object. `Recorded` is the whole of what is asked of one, and what a source of recorded
data only (a serving engine's log, another tool's dump) is: its traces are compared, and nothing runs them again.
`Adapter` adds live runs (`Run`) and replays (`Executor`). Values (tensors) are opaque to every other room; they
become `whydiff.records.Payload` when numbers are looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from whydiff.capturing.adapters.contract.compiling import Compiled, Graph, Part, Rung, Way
from whydiff.capturing.adapters.contract.executing import (
    FUSED,
    Change,
    Exchanged,
    Executor,
    Manner,
    RecordedSum,
    Value,
    in_another_dtype,
    retyped,
)
from whydiff.capturing.adapters.contract.running import Kept, Outputs, Precision, Run, Session
from whydiff.capturing.adapters.roles import Role
from whydiff.capturing.ranks import Rank, told
from whydiff.capturing.steps import StepRecord
from whydiff.errors import UnsupportedError
from whydiff.numbers.grids import Resampling
from whydiff.numbers.pools import Pooling
from whydiff.numbers.ranges.audit import Audit
from whydiff.numbers.windows import Window
from whydiff.records import Call, Environment, Lift, Payload, Trace
from whydiff.records.trace import GRAPH
from whydiff.takes import Kind

Progress = Callable[[str, int, int], None]
"""Told the stage in words, and how much of it is done of how much (0 of 0: unknown)."""
Place = tuple[int | None, str]
"""Position (None: by keyword only) and keyword of an argument."""


def silent(stage: str, done: int, total: int) -> None:
    """The `Progress` that nobody reads."""


class Recorded:
    """A source of recorded data: a `Trace` and its payloads, no run and no executor.

    Args:
        name: what the traces' ``framework`` says.

    Attributes:
        remedies: names that `remedy` carries out.
        changes_calls: whether `executor` takes ``changes``.
        options: of `session`, beyond those of `whydiff.capture`: name → what it takes.
        operators: part → names of the operators that play it, as in sites.
        arguments: operator → meaning (``"left"``, ``"eps"``, ``"axis"`` …) → where it takes that.
    """

    name: str = ""
    remedies: frozenset[str] = frozenset()
    operators: Mapping[Role, tuple[str, ...]] = {}
    arguments: Mapping[str, Mapping[str, Place]] = {}
    changes_calls = False
    options: Mapping[str, Kind] = {}

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

    def function(self, op: str) -> str:
        """What an operator computes, whatever memory the result is written to: one name for it and its form in place."""
        return op

    def by_place(self, call: Call) -> bool:
        """Whether each element of a call's result is made of the elements of what it reads at its place, broadcast."""
        return bool(self.roles(call.site.op) & {Role.ELEMENTWISE, Role.CAST})

    def places(self, op: str) -> Mapping[str, Place]:
        """Where an operator takes what, by meaning; empty if nobody said."""
        return self.arguments.get(op, {})

    def default(self, target: str, which: int | str) -> tuple[Any] | None:
        """What an operator (``Call.target``) takes at a position or by a name where it is left out; None: nobody said."""
        return None

    def argument(self, target: str, which: int | str) -> str:
        """What an operator (``Call.target``) calls an argument at a position or by a name, in words."""
        return which if isinstance(which, str) else f"argument {which}"

    def program(self, path: Path) -> Callable[..., Any]:
        """A program that a file holds.

        Raises:
            UnsupportedError: this framework's programs are no files.
        """
        raise self._cannot("run a file")

    def window(self, call: Call) -> Window | None:
        """A convolution in the form that all frameworks share; None: it is none, or nobody said."""
        return None

    def choices(self, call: Call) -> Mapping[int | str, Sequence[Any]]:
        """Plain arguments of a call (position or keyword) that are easily mistaken → all values that they could have."""
        return {}

    def resampling(self, call: Call) -> Resampling | None:
        """A call that makes an image larger or smaller, in the form that all frameworks share; None: likewise."""
        return None

    def pooling(self, call: Call) -> Pooling | None:
        """A call that makes one number of each window, in the form that all frameworks share; None: likewise."""
        return None

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a target.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("run a program")

    def watching(self, sink: Callable[[StepRecord], None]) -> AbstractContextManager[Any]:
        """A block in which every step of a training program is looked at cheaply, and given to a sink.

        Raises:
            UnsupportedError: steps of this framework's programs are not known.
        """
        raise self._cannot("follow a training program step by step")

    def step_run(self, program: Callable[[], Any], first: int, last: int) -> Run:
        """A live run of some steps of a training program, numbered as by `watching`.

        Raises:
            UnsupportedError: steps of this framework's programs are not known.
        """
        raise self._cannot("follow a training program step by step")

    def settled(self) -> AbstractContextManager[Any]:
        """A block in which training programs run again and again: what exists before is looked through once, for all."""
        return nullcontext()

    def jittered(self, program: Callable[[], Any], seed: int, sink: Callable[[StepRecord], None]) -> None:
        """Run a training program under `watching`, every updated parameter rounded at random.

        Raises:
            UnsupportedError: steps of this framework's programs are not known.
        """
        raise self._cannot("follow a training program step by step")

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
            UnsupportedError: this keeps recorded data only, or cannot carry single calls out differently.
            whydiff.errors.ReplayError: this adapter cannot lift.
        """
        if changes:
            raise self._cannot("carry single calls out differently")
        return self.replayer()(trace, restore=restore, lift=lift, exchanged=exchanged)

    def replayer(self) -> Callable[..., Executor]:
        """What makes an `executor` of a trace, ``restore``, ``lift`` and ``exchanged``.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("execute a trace again")

    def exchanged(
        self, calls: Mapping[int, Call], reads: Mapping[int, Sequence[Value]]
    ) -> Mapping[int, Sequence[Value]]:
        """What every rank's call of one collective writes, from what all of them hold; nothing is sent anywhere.

        Args:
            calls: rank → its call.
            reads: rank → what the call is given.

        Raises:
            UnsupportedError: this keeps recorded data only.
            whydiff.errors.ReplayError: the calls do not belong together, or this kind cannot be carried out.
        """
        raise self._cannot("carry out a collective")

    def session(self, **options: Any) -> Session:
        """A context manager that captures what runs in its block into a sink; see `whydiff.capturing.record`.

        Raises:
            UnsupportedError: this keeps recorded data only.
        """
        raise self._cannot("capture a program")

    def environment(self) -> Environment:
        """Everything outside the program that can change numbers, now."""
        return Environment()

    def rank(self) -> Rank:
        """Which of several processes this is, as far as it is known now."""
        return told()

    def process(self) -> Kept:
        """What the framework keeps for the whole process (modes, switches, random states), as it is now."""
        return Kept()

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
        if trace.refused:
            return trace.refused
        if trace.level != "op":
            return "it was captured at module level"
        if any(call.target == GRAPH for call in trace.calls):
            return "it runs CUDA graphs, inside of which nothing is seen"
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
    def session(self, **options: Any) -> Session: ...

    @abstractmethod
    def environment(self) -> Environment: ...

    @abstractmethod
    def to_payload(self, value: Value) -> Payload: ...


__all__ = [
    "FUSED",
    "Adapter",
    "Change",
    "Compiled",
    "Exchanged",
    "Executor",
    "Graph",
    "Kept",
    "Manner",
    "Outputs",
    "Part",
    "Place",
    "Precision",
    "Progress",
    "Recorded",
    "RecordedSum",
    "Run",
    "Rung",
    "Session",
    "Value",
    "Way",
    "in_another_dtype",
    "retyped",
    "silent",
]
