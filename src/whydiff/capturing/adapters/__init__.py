"""The frameworks, each behind the contract of `contract.py`. Adapters are the only rooms that mention one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whydiff import registry
from whydiff.capturing.adapters.contract import (
    FUSED,
    Adapter,
    Change,
    Compiled,
    Exchanged,
    Executor,
    Graph,
    Kept,
    Manner,
    Outputs,
    Part,
    Place,
    Progress,
    Recorded,
    RecordedSum,
    Run,
    Rung,
    Session,
    Value,
    Way,
    retyped,
    silent,
)
from whydiff.capturing.adapters.roles import Role
from whydiff.errors import MissingPackageError, UsageError
from whydiff.records import Call, Lift, Trace
from whydiff.takes import refuse_class

SHARED = ("contract", "roles")
CONTRACT = registry.Contract(base=Recorded)


def for_framework(name: str) -> Recorded:
    """The adapter of a framework by name; of one that nobody registered, what can be asked of its recorded data.

    Raises:
        MissingPackageError: the framework is not installed.
    """
    if name not in registry.names("adapters"):
        return Recorded(name)
    return registry.get("adapters", name)  # type: ignore[no-any-return]


def for_target(target: object, args: Sequence[Any] = ()) -> Recorded:
    """The adapter that owns a target; torch is tried last, as the default for plain callables.

    Raises:
        UsageError: nobody owns it, it is a class of programs, or the framework is not installed.
    """
    if not callable(target):
        raise UsageError(
            "This is neither a callable nor a trace.",
            actual=type(target).__name__,
            expected="a module, a function, or the path of a trace",
            next_step="of a result, pass a function that returns it: lambda: y; inputs come after both sides: f, g, x",
        )
    refuse_class(target)
    for name in sorted(registry.names("adapters"), key=lambda name: name == "torch"):
        try:
            adapter = for_framework(name)
        except MissingPackageError:
            continue
        if adapter.owns(target, args):
            return adapter
    raise UsageError(
        "No installed adapter knows this target.",
        actual=type(target).__name__,
        next_step="install the framework's extra: pip install 'whydiff[torch]' or 'whydiff[jax]'",
    )


def replayable(trace: Trace) -> str:
    """Why a trace cannot be executed again; empty if it can."""
    return for_framework(trace.framework).replayable(trace)


def executor_of(
    trace: Trace,
    *,
    restore: Mapping[str, Value] | None = None,
    lift: Lift | None = None,
    changes: Mapping[int, Change] | None = None,
    exchanged: Mapping[int, Call] | None = None,
) -> Executor:
    """A replay of a trace by its framework's adapter, see `Recorded.executor`."""
    adapter = for_framework(trace.framework)
    return adapter.executor(trace, restore=restore, lift=lift, changes=changes, exchanged=exchanged)


def plays(framework: str, op: str, role: Role) -> bool:
    """Whether a framework's operator (named as in a site) plays a part."""
    return role in for_framework(framework).roles(op)


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
    "Progress",
    "Recorded",
    "RecordedSum",
    "Role",
    "Run",
    "Rung",
    "Session",
    "Value",
    "Way",
    "executor_of",
    "for_framework",
    "for_target",
    "plays",
    "replayable",
    "retyped",
    "silent",
]
