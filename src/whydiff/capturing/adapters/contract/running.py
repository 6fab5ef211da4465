"""Running and capturing a live program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from whydiff.capturing.adapters.contract.compiling import Compiled, Graph, Rung, Way
from whydiff.capturing.adapters.contract.executing import Executor, Value
from whydiff.capturing.sink import Payloads, Sink, manifest_of, send
from whydiff.errors import UnsupportedError
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Call, Intervention, ObserverCheck, Output, RecordedTrace, Site, Trace

Outputs = Sequence[tuple[str, Value]]
Precision = Literal["float64", "float32", "bfloat16", "float16"]


class Kept:
    """Something that was remembered: nothing."""

    def restore(self) -> None:
        """Put back what changed since."""
        return None


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
    is_module: bool = False
    """Whether the target is itself the module that holds the state which the trace names."""
    dispatched: int = 0
    """How many ops and compiled programs the framework was handed in the recorded run; 0: it does not tell."""

    @abstractmethod
    def anchor(self) -> tuple[Output, ...]:
        """Everything the program gives back, of any type, when it runs plainly before anything else (remembered).

        Raises:
            whydiff.errors.TargetError: the program raised.
        """

    def at_home(self) -> Run:
        """The run in the framework whose values the program gives back; this one, unless it names several."""
        return self

    @abstractmethod
    def capture(self, *, level: str = "op") -> RecordedTrace:
        """Run once instrumented; the trace's leaves stay references to the user's tensors."""

    @abstractmethod
    def plain(self, interventions: Iterable[Intervention] = (), donor: Executor | None = None) -> Outputs:
        """Run without any instrument, under interventions; ``donor`` supplies restored state.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """

    def lifted(self, dtype: Precision, interventions: Iterable[Intervention] = ()) -> tuple[Output, ...] | None:
        """Everything the program gives back when it runs plainly with the same values at another precision.

        State and inputs that are narrower are widened (exactly), for 16 bits all are rounded; None: the program, or the
        framework, cannot. ``interventions`` need no donor.
        """
        return None

    def casts_to(self) -> str:
        """The coarsest dtype to which the program, run plainly in float64, casts by itself; empty: none that is known of.

        Such a program follows into float64 in part only: what it rounds there stays rounded.
        """
        return ""

    def rungs(self) -> tuple[Rung, ...]:
        """What a compiler does to this program, step by step; the last one is all of it. Nothing: nothing is compiled."""
        return ()

    def compiled_as(self, way: Way) -> Compiled:
        """What the program gives back when what it compiles is compiled anew; its own compiled code stays as it is.

        Raises:
            UnsupportedError: nothing is compiled, or the framework cannot.
        """
        raise UnsupportedError("This program cannot be compiled in another way.", actual=self.framework)

    def traced_anew(self) -> tuple[Call, ...]:
        """The calls of a run that is traced now, whatever was traced before; nothing: this framework cannot show them.

        What was traced before stays as it is.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """
        return ()

    def autocasts(self) -> bool:
        """Whether regions of autocast may be entered where this program runs or compiles; False: `compiled_as` met none."""
        return True

    def graphs(self) -> tuple[Graph, ...]:
        """Graphs that the program hands its compiler, forward, each with the values of its first call.

        Raises:
            UnsupportedError: the framework cannot tell.
            whydiff.errors.TargetError: the program raised.
        """
        raise UnsupportedError("Graphs of this framework cannot be cut.", actual=self.framework, expected="torch")

    def unwritten(self, names: Iterable[str]) -> frozenset[str]:
        """Which of these state tensors loading leaves unwritten, where what the program runs can be loaded again."""
        return frozenset()

    @abstractmethod
    def check(self, trace: Trace | None = None) -> ObserverCheck:
        """Plain runs against the instrumented one that `capture` or `record` made before."""

    def lines(self, sites: Collection[Site]) -> Mapping[Site, str]:
        """``file:line`` of the user's own code that called for these sites' ops, by one more run; nothing: it cannot tell.

        Raises:
            whydiff.errors.TargetError: the program raised.
        """
        return {}

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
