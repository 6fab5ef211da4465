"""The JAX adapter: the only room that imports jax; this file does not, so that it can be asked without it."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from whydiff.capturing.adapters.contract import Adapter, Change
from whydiff.capturing.adapters.jax.roles import NAMES
from whydiff.records import Call, Environment, Lift, Payload, Trace

if TYPE_CHECKING:
    from whydiff.capturing.adapters.jax.executor import Executor
    from whydiff.capturing.adapters.jax.process import Process
    from whydiff.capturing.adapters.jax.run import Run
    from whydiff.capturing.adapters.jax.session import Session

_DEEP = 6
_OURS = ("jax", "jaxlib", "flax", "equinox", "penzai")


class JaxAdapter(Adapter):
    """See `whydiff.capturing.adapters.contract`."""

    name = "jax"
    remedies = frozenset({"fixed-row-chunks"})
    operators = NAMES

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Whether a target, its closure or its arguments hold JAX arrays, jitted functions or JAX modules.

        jax is never imported for this: who holds such an object has imported it.
        """
        if "jax" not in sys.modules:
            return False
        seen: set[int] = set()
        return any(_speaks_jax(value, seen, 0) for value in (target, *args))

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a callable."""
        from whydiff.capturing.adapters.jax.run import Run

        return Run(target, args, kwargs)

    def executor(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, Any] | None = None,
        lift: Lift | None = None,
        changes: Mapping[int, Change] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> Executor:
        """A replay of a trace; primitives named by a trace on disk are limited to JAX's own."""
        from whydiff.capturing.adapters.jax.executor import Executor

        if changes:
            raise self._cannot("carry single calls out differently")
        return Executor(trace, restore=restore, lift=lift, exchanged=exchanged)

    def session(self, **options: Any) -> Session:
        """A capture of whatever runs inside its block; options of `Session`."""
        from whydiff.capturing.adapters.jax.session import Session

        return Session(**options)

    def remedy(self, name: str, ops: Sequence[str], value: Any = None) -> AbstractContextManager[Any]:
        """A mode in which the named ops are carried out in another way; see `remedies.remedy`."""
        from whydiff.capturing.adapters.jax.remedies import remedy

        return remedy(name, ops, value)

    def to_payload(self, value: Any) -> Payload:
        """A host copy of an array."""
        from whydiff.capturing.adapters.jax.values import to_payload

        return to_payload(value)

    def process(self) -> Process:
        """JAX's configuration as it is now."""
        from whydiff.capturing.adapters.jax.process import Process

        return Process()

    def environment(self) -> Environment:
        """Versions, hardware, flags and variables now."""
        from whydiff.capturing.adapters.jax.environment import environment

        return environment()


def _speaks_jax(value: Any, seen: set[int], depth: int) -> bool:
    if id(value) in seen or depth > _DEEP:
        return False
    seen.add(id(value))
    kind = type(value)
    if any(base.__module__.partition(".")[0] in _OURS for base in kind.__mro__):
        return True
    if isinstance(value, functools.partial):
        parts: Any = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.MethodType):
        parts = (value.__self__, value.__func__)
    elif isinstance(value, types.FunctionType):
        parts = list(_reached(value))
    elif isinstance(value, Mapping):
        parts = list(value.values())[:64]
    elif isinstance(value, (list, tuple)):
        parts = value[:64]
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
        parts = list(vars(value).values())[:64]
    else:
        return False
    return any(_speaks_jax(part, seen, depth + 1) for part in parts)


def _reached(function: types.FunctionType) -> list[Any]:
    """What a function closes over, its defaults, and JAX's modules among the globals that it names."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # an empty cell holds nothing yet
            continue
    found = [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for name in function.__code__.co_names:
        item = function.__globals__.get(name)
        if isinstance(item, types.ModuleType):
            if item.__name__.partition(".")[0] in _OURS:
                found.append(_Named(item))
        elif (isinstance(item, types.FunctionType) and item.__module__ == function.__module__) or (
            item is not None and not isinstance(item, (type, types.FunctionType))
        ):
            found.append(item)
    return found


class _Named:
    """Stands for one of JAX's modules that a function names (a module's type tells nothing)."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module


_Named.__module__ = "jax"

REGISTER = JaxAdapter()
