"""The PyTorch adapter: the only room that imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from whydiff.capturing.adapters import Change
from whydiff.capturing.adapters.torch.changing import ChangedExecutor
from whydiff.capturing.adapters.torch.checkpoint import checkpoint
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.capturing.adapters.torch.environment import environment, set_flags
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.formulas_run import evaluate, rounded
from whydiff.capturing.adapters.torch.kernels import kernels
from whydiff.capturing.adapters.torch.layouts import laid_out
from whydiff.capturing.adapters.torch.lifting import LiftedExecutor
from whydiff.capturing.adapters.torch.probing import Summed, summed
from whydiff.capturing.adapters.torch.remedies import remedy
from whydiff.capturing.adapters.torch.run import Run
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.adapters.torch.trace_audit import audit_trace
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Call, Environment, Lift, Payload, Trace


class TorchAdapter:
    """See `whydiff.capturing.adapters.Adapter`."""

    name = "torch"
    changes_calls = True

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Every callable that no other adapter claims."""
        return callable(target)

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a module or callable."""
        return Run(target, args, kwargs)

    def executor(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, torch.Tensor] | None = None,
        lift: Lift | None = None,
        changes: Mapping[int, Change] | None = None,
    ) -> Executor:
        """A replay of a trace, lifted or with changed calls; ops named by a trace on disk are limited to ATen."""
        trusted = bool(getattr(trace, "handles", None))
        if changes:
            return ChangedExecutor(trace, changes, trusted=trusted, restore=restore)
        if lift is not None:
            return LiftedExecutor(trace, lift, trusted=trusted, restore=restore)
        return Executor(trace, trusted=trusted, restore=restore)

    def session(self, **options: Any) -> Session:
        """A capture of whatever runs inside its block; options of `Session`."""
        return Session(**options)

    def checkpoint(self, path: Path) -> Any:
        """Tensors, scalars and skipped names of a file that ``torch.save`` wrote; see `checkpoint`."""
        return checkpoint(path)

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
        """A formula on scaled inputs: its output and seconds; the oracle carries the rounded inputs in float64."""
        if oracle:
            inputs, dtype, scale = rounded(inputs, dtype, scale, device, "float64"), "float64", 1.0
        return evaluate(formula, inputs, dtype, scale, device, repeats)

    def audit(self, trace: Trace) -> Audit:
        """Ranges of everything that a trace's ops write, by replay."""
        return audit_trace(Executor(trace, trusted=bool(getattr(trace, "handles", None))))

    def environment(self) -> Environment:
        """Versions, hardware, flags, variables and random states now."""
        return environment()

    def recorded_sum(self, executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> Summed | None:
        """Sums, means, matrix products and convolutions as evaluable sums; see `whydiff.explain.reduction`."""
        return summed(executor, call, reads)

    def under(self, flags: Mapping[str, Any]) -> AbstractContextManager[None]:
        """Process-wide switches set for the length of a block."""
        return set_flags(flags)

    def laid_out(self, value: Any, layout: str) -> Any:
        """Nested arguments copied into another memory layout; see `layouts.LAYOUTS`."""
        return laid_out(value, layout)

    def kernels(self, executor: Executor, call: Call, reads: Sequence[torch.Tensor]) -> Sequence[str]:
        """What ran when an op was executed on given tensors, as far as the backends tell."""
        return kernels(executor, call, reads)

    def to_payload(self, value: torch.Tensor) -> Payload:
        """A host copy of a tensor."""
        return to_payload(value)

    def remedy(self, name: str, ops: Sequence[str], value: Any = None) -> AbstractContextManager[Any]:
        """A mode in which the named ops are carried out in another way; see `remedies.REMEDIES`."""
        return remedy(name, ops, value)


REGISTER = TorchAdapter()
