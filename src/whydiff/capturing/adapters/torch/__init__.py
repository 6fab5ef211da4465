"""The PyTorch adapter: the only room that imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from whydiff.capturing.adapters.contract import Adapter, Change
from whydiff.capturing.adapters.torch.allowed import default_of, name_of
from whydiff.capturing.adapters.torch.changing import ChangedExecutor
from whydiff.capturing.adapters.torch.checkpoint import checkpoint
from whydiff.capturing.adapters.torch.collectives import rank
from whydiff.capturing.adapters.torch.dtypes import to_payload
from whydiff.capturing.adapters.torch.environment import environment, set_flags
from whydiff.capturing.adapters.torch.exchanging import exchanged
from whydiff.capturing.adapters.torch.executor import Executor
from whydiff.capturing.adapters.torch.formulas_run import evaluate, rounded
from whydiff.capturing.adapters.torch.kernels import kernels
from whydiff.capturing.adapters.torch.layouts import laid_out
from whydiff.capturing.adapters.torch.lifting import LiftedExecutor
from whydiff.capturing.adapters.torch.operators import is_pointwise
from whydiff.capturing.adapters.torch.probing import summed
from whydiff.capturing.adapters.torch.process import Process
from whydiff.capturing.adapters.torch.remedies import REMEDIES, remedy
from whydiff.capturing.adapters.torch.roles import NAMES, PLACES, choices_of, roles
from whydiff.capturing.adapters.torch.run import Run
from whydiff.capturing.adapters.torch.session import Session
from whydiff.capturing.adapters.torch.trace_audit import audit_trace
from whydiff.capturing.adapters.torch.training.following import settled
from whydiff.capturing.adapters.torch.training.jitter import jittered
from whydiff.capturing.adapters.torch.training.one_step import StepRun
from whydiff.capturing.adapters.torch.training.watching import Watching
from whydiff.capturing.adapters.torch.windows import pooling_of, resampling_of, window_of
from whydiff.capturing.steps import StepRecord
from whydiff.numbers.ranges.audit import Audit
from whydiff.records import Call, Lift, Payload, Trace
from whydiff.takes import pairs

_OPTIONS = {"roots": pairs(torch.nn.Module, "module"), "tensors": pairs(torch.Tensor, "tensor")}


class TorchAdapter(Adapter):
    """See `whydiff.capturing.adapters.contract`."""

    name = "torch"
    remedies = frozenset(REMEDIES)
    changes_calls = True
    options = _OPTIONS
    operators = NAMES
    arguments = PLACES

    roles = staticmethod(roles)
    default = staticmethod(default_of)
    window = staticmethod(window_of)
    pooling = staticmethod(pooling_of)
    choices = staticmethod(choices_of)
    resampling = staticmethod(resampling_of)
    settled = staticmethod(settled)
    jittered = staticmethod(jittered)
    checkpoint = staticmethod(checkpoint)
    exchanged = staticmethod(exchanged)
    rank = staticmethod(rank)
    environment = staticmethod(environment)
    recorded_sum = staticmethod(summed)
    under = staticmethod(set_flags)
    laid_out = staticmethod(laid_out)
    kernels = staticmethod(kernels)
    remedy = staticmethod(remedy)

    def function(self, op: str) -> str:
        """ATen's forms in place have an underscore more."""
        return op.removesuffix("_")

    def by_place(self, call: Call) -> bool:
        """By the part an operator plays, or as ATen's tags say."""
        return super().by_place(call) or is_pointwise(call.target)

    def argument(self, target: str, which: int | str) -> str:
        """As the operator's schema says."""
        return name_of(target, which) or super().argument(target, which)

    def owns(self, target: object, args: Sequence[Any]) -> bool:
        """Every callable that no other adapter claims."""
        return callable(target)

    def run(self, target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Run:
        """A live run of a module or callable."""
        return Run(target, args, kwargs)

    def watching(self, sink: Callable[[StepRecord], None]) -> Watching:
        """A block in which every step of a training program is looked at cheaply."""
        return Watching(sink)

    def step_run(self, program: Callable[[], Any], first: int, last: int) -> Run:
        """A live run of some steps of a training program."""
        return StepRun(program, first, last)

    def executor(
        self,
        trace: Trace,
        *,
        restore: Mapping[str, torch.Tensor] | None = None,
        lift: Lift | None = None,
        changes: Mapping[int, Change] | None = None,
        exchanged: Mapping[int, Call] | None = None,
    ) -> Executor:
        """A replay of a trace, lifted or with changed calls."""
        if changes:
            return ChangedExecutor(trace, changes, restore=restore, exchanged=exchanged)
        if lift is not None:
            return LiftedExecutor(trace, lift, restore=restore, exchanged=exchanged)
        return Executor(trace, restore=restore, exchanged=exchanged)

    def session(self, **options: Any) -> Session:
        """A capture of whatever runs inside its block; options of `Session`."""
        return Session(**options)

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
        return audit_trace(Executor(trace))

    def to_payload(self, value: torch.Tensor) -> Payload:
        """A host copy of a tensor."""
        return to_payload(value)

    def process(self) -> Process:
        """What the framework keeps for the whole process, as it is now."""
        return Process()


REGISTER = TorchAdapter()
