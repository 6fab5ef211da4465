"""The JAX adapter: the only room that imports jax; this file does not, so that it can be asked without it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from whydiff.capturing.adapters.contract import Adapter, Change
from whydiff.capturing.adapters.jax.roles import NAMES
from whydiff.capturing.adapters.jax.windows import pooling_of, window_of
from whydiff.capturing.adapters.jax.written_in import is_jax
from whydiff.records import Call, Environment, Lift, Payload, Trace

if TYPE_CHECKING:
    from whydiff.capturing.adapters.jax.executor import Executor
    from whydiff.capturing.adapters.jax.process import Process
    from whydiff.capturing.adapters.jax.run import Run
    from whydiff.capturing.adapters.jax.session import Session


class JaxAdapter(Adapter):
    """See `whydiff.capturing.adapters.contract`."""

    name = "jax"
    remedies = frozenset({"fixed-row-chunks"})
    changes_calls = True
    operators = NAMES

    window = staticmethod(window_of)
    pooling = staticmethod(pooling_of)

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Whether a target is written in JAX, or reaches JAX's arrays and nothing that is written in PyTorch.

        jax is never imported for this: who holds such an object has imported it.
        """
        return "jax" in sys.modules and is_jax(target, args)

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
        """A replay of a trace, lifted or with changed calls."""
        if changes:
            from whydiff.capturing.adapters.jax.changing import ChangedExecutor

            return ChangedExecutor(trace, changes, restore=restore, exchanged=exchanged)
        return self.replayer()(trace, restore=restore, lift=lift, exchanged=exchanged)

    def replayer(self) -> type[Executor]:
        """A replay of a trace; primitives named by a trace on disk are limited to JAX's own."""
        from whydiff.capturing.adapters.jax.executor import Executor

        return Executor

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


REGISTER = JaxAdapter()
