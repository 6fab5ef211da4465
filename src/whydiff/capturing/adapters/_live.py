"""What live runs and replays of every framework have in common."""

from __future__ import annotations

import importlib.metadata
import inspect
import platform
import traceback
import types
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from whydiff.capturing.adapters._outputs import same_outputs
from whydiff.capturing.adapters.contract import Exchanged, Executor, Outputs, Value
from whydiff.capturing.targets import is_library
from whydiff.errors import PayloadError, ReplayError, TargetError, WhydiffError, harmless
from whydiff.records import Call, Count, Event, Leaf, ObserverCheck, Output, Payload, Site, Trace
from whydiff.takes import needed

FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    MemoryError,
    WhydiffError,
)
"""What executing a recorded call may raise."""


def short(error: BaseException) -> str:
    """An error in one line."""
    text = str(error).strip().splitlines()
    return harmless(f"{type(error).__name__}: {text[0] if text else ''}"[:200])


def called(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call the user's program.

    Raises:
        TargetError: it raised; the message names the user's own line.
    """
    try:
        return target(*args, **kwargs)
    except Exception as error:
        if isinstance(error, TypeError) and not args and not kwargs and (names := needed(target)):
            raise TargetError(
                "The target takes arguments, and there are none.",
                actual=f"it needs {', '.join(names)}",
                expected="a target without arguments, or its inputs",
                next_step="give the inputs: compare(reference, candidate, x)",
            ) from error
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if "/whydiff/" not in f.filename.replace("\\", "/")]
        own = [f for f in theirs if not is_library(f.filename)] or theirs
        raise TargetError(
            "The target raised while it ran.",
            where=f"{own[-1].filename}:{own[-1].lineno}" if own else "",
            actual=f"{type(error).__name__}: {error}",
            expected="a run that ends",
            next_step="run the target alone with the same inputs",
        ) from error


def bound(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
    """Arguments by the parameters' names, where the signature tells them."""
    try:
        signature = inspect.signature(target)
        return dict((signature.bind_partial if partial else signature.bind)(*args, **kwargs).arguments)
    except (TypeError, ValueError):  # no signature, or the call will fail by itself in a moment
        return {f"args[{index}]": value for index, value in enumerate(args)} | dict(kwargs)


def reached_by(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """(name, value) of what a function's code can reach: closure, defaults, and the globals that it names.

    Modules, types and functions of other modules are left out.
    """
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # an empty cell holds nothing yet
            continue
    names = set(function.__code__.co_names)
    for constant in function.__code__.co_consts:
        if inspect.iscode(constant):
            names.update(constant.co_names)
    for name in sorted(names):
        value = function.__globals__.get(name)
        foreign = isinstance(value, types.FunctionType) and value.__module__ != function.__module__
        if not foreign and not isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
            yield name, value
    for index, value in enumerate(function.__defaults__ or ()):
        yield f"default{index}", value
    yield from (function.__kwdefaults__ or {}).items()


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    except OSError:
        return platform.processor()


def installed(names: Iterable[str]) -> dict[str, str]:
    """Versions of the packages among these that are there."""
    found = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def not_lifted(found: Mapping[str, Sequence[str]], flips: Sequence[str] = (), dtype: str = "") -> list[Count]:
    """What a lifted replay took as it was recorded (reason → sites), and sites of choices that flip at another precision."""
    what, choices = "ops as recorded", "discrete choices that flip at another precision"
    counts = [
        Count(what=what, reason=why, count=len(at), examples=tuple(at[:3]), code="not lifted")
        for why, at in found.items()
    ]
    if flips:
        how = f"carried out in {dtype}"
        counts.append(Count(what=choices, reason=how, count=len(flips), examples=tuple(flips[:3]), code="flip"))
    return counts


def equal(first: Outputs, second: Outputs, same: Callable[[Value, Value], bool]) -> tuple[bool, str]:
    """Whether two results have the same structure and values, and where they do not."""
    if [path for path, _ in first] != [path for path, _ in second]:
        return False, "the structure of the result"
    for (path, one), (_, other) in zip(first, second, strict=True):
        if not same(one, other):
            return False, path
    return True, ""


def checked(plain: Sequence[Output], again: Sequence[Output], observed: Sequence[Output]) -> ObserverCheck:
    """The observer check of two plain runs (before and after) and an instrumented one (in between)."""
    compared = sum(output.kind in ("numbers", "text") for output in plain)
    if not compared:
        return ObserverCheck(
            deterministic=None, unchanged=None, outputs=0, note="the run returned nothing that can be compared"
        )
    deterministic, where = same_outputs(plain, again)
    unchanged, changed_at = same_outputs(plain, observed)
    note = ""
    if not deterministic:
        note = f"two plain runs differ at {where}"
    elif not unchanged:
        note = f"the instrumented run differs from the plain one at {changed_at}"
    elif hidden := sorted({output.type for output in plain if output.kind == "unreadable"}):
        note = f"not looked into: {', '.join(hidden)} in the result"
    return ObserverCheck(
        deterministic=deterministic, unchanged=unchanged if deterministic else None, outputs=compared, note=note
    )


class Replay(Executor):
    """A replay that reads leaves from the live run's values or from payloads, and knows when nothing needs a storage.

    Args:
        trace: what to replay.
        restore: leaf name → the value that takes the place of the recorded leaf.
        exchanged: call index → the call that takes its place.
    """

    def __init__(
        self, trace: Trace, restore: Mapping[str, Value] | None = None, exchanged: Mapping[int, Call] | None = None
    ) -> None:
        self.trace: Any = (
            Exchanged(trace, (exchanged.get(call.index, call) for call in trace.calls)) if exchanged else trace
        )
        if trace.refused:
            raise ReplayError("This trace is not executed again.", where=trace.source, actual=trace.refused)
        self.trusted, self._bounds = trace.trusted, trace.bounds
        self._handles: Mapping[str, Any] = trace.handles
        self._restore: dict[str, Any] = dict(restore or {})
        self._leaves: dict[int, list[Leaf]] = {}
        for leaf in trace.leaves:
            if leaf.storage >= 0 and not leaf.skipped:
                self._leaves.setdefault(leaf.storage, []).append(leaf)
        self._edited = frozenset(exchanged or ())
        self._held: dict[int, Any] = {}  # storage → what lies there now
        self._stand_ins: dict[Site, Value] = {}
        self._last: dict[int, int] = {}
        for call in self.trace.calls:
            for event in call.reads:
                self._last[event.storage] = call.index
            for event in call.writes:
                self._last[event.storage] = call.index

    def _dying(self, call: Call) -> Iterator[int]:
        """Storages that no call after this one looks at."""
        for event in (*call.reads, *call.writes):
            if self._last.get(event.storage) == call.index:
                yield event.storage

    def apply(self, call: Call, reads: Sequence[Value]) -> Sequence[Value]:
        """Execute a call's operation on given values; see `Executor.apply`.

        Raises:
            ReplayError, LookupError, RuntimeError …: whatever looking it up or executing it raises.
        """
        if self._bounds is None:
            return self.carried_out(call, reads)
        with self._bounds.during(call.index):
            return self.carried_out(call, reads)

    @abstractmethod
    def carried_out(self, call: Call, reads: Sequence[Value]) -> Sequence[Value]:
        """What `apply` does, whoever watches."""

    def release(self, call: Call) -> None:
        """Forget what no later call needs. Call it after the values of a call were used."""
        for storage in self._dying(call):
            self._held.pop(storage, None)
        for event in call.reads if self._stand_ins else ():
            self._stand_ins.pop(event.site, None)

    def _leaf_at(self, event: Event) -> Leaf:
        """The leaf that a value without a call is; one that was restored goes before its ties.

        Raises:
            PayloadError: a call should have made it.
        """
        leaves = self._leaves.get(event.storage)
        if not leaves:
            raise PayloadError("The call that made this value was not executed.", where=str(event.site))
        return next((leaf for leaf in leaves if leaf.name in self._restore), leaves[0])

    def _kept(self, leaf: Leaf) -> Payload:
        """A leaf's payload.

        Raises:
            PayloadError: the trace does not hold it.
        """
        payload: Payload | None = self.trace.payload(leaf.payload) if leaf.payload else None
        if payload is None:
            raise PayloadError(
                "A full tensor is needed and the trace does not hold it.",
                where=leaf.name,
                expected=str(leaf.spec),
                next_step='capture again with payloads="all" (or a list of globs)',
            )
        return payload


class ArrayReplay(Replay):
    """A replay of a framework whose arrays never change: a storage is one value, and each is the run's own or it is not."""

    def __init__(
        self, trace: Trace, restore: Mapping[str, Value] | None = None, exchanged: Mapping[int, Call] | None = None
    ) -> None:
        super().__init__(trace, restore, exchanged)
        self._changed = {s for s, leaves in self._leaves.items() if any(x.name in self._restore for x in leaves)}

    def _reads_as_in_the_run(self, call: Call) -> bool:
        """Whether a call is what it was, and is given what it was given."""
        return call.index not in self._edited and not any(
            event.storage in self._changed or event.site in self._stand_ins for event in call.reads
        )

    def testifies(self, call: Call) -> bool:
        """Whether what the replay holds for a call is the run's own.

        False: it was executed alone on other inputs than the run's; the compiled program might round elsewhere.
        """
        return not any(event.storage in self._changed for event in call.writes)
