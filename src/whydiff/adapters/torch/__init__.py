"""The PyTorch adapter: the only room that imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from whydiff.adapters.torch.environment import environment
from whydiff.adapters.torch.executor import Executor
from whydiff.adapters.torch.lifting import LiftedExecutor
from whydiff.adapters.torch.probing import Summed, summed
from whydiff.adapters.torch.run import Run
from whydiff.adapters.torch.session import Session
from whydiff.records import Call, Environment, Lift, Trace


class TorchAdapter:
    """See `whydiff.adapters.Adapter`."""

    name = "torch"

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Every callable that no other adapter claims."""
        return callable(target)

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a module or callable."""
        return Run(target, args, kwargs)

    def executor(
        self, trace: Trace, *, restore: Mapping[str, torch.Tensor] | None = None, lift: Lift | None = None
    ) -> Executor:
        """A replay of a trace, lifted if asked; ops named by a trace on disk are limited to ATen."""
        trusted = bool(getattr(trace, "handles", None))
        if lift is not None:
            return LiftedExecutor(trace, lift, trusted=trusted, restore=restore)
        return Executor(trace, trusted=trusted, restore=restore)

    def session(self, **options: Any) -> Session:
        """A capture of whatever runs inside its block; options of `Session`."""
        return Session(**options)

    def environment(self) -> Environment:
        """Versions, hardware, flags, variables and random states now."""
        return environment()

    def recorded_sum(self, executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> Summed | None:
        """Sums, means, matrix products and convolutions as evaluable sums; see `whydiff.reduction`."""
        return summed(executor, call, reads)


REGISTER = TorchAdapter()
