"""EN004: another instruction set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._environment import doctored, hypothesis, impostors, unexplained
from whydiff.records import Cause, Remedy

_CHANGED = {"hardware": {"cpu_capability": "none"}, "variables": {"ATEN_CPU_CAPABILITY": "none"}}
"""What the example changes of the environment."""


class InstructionSet(CauseRule):
    """The CPU kernels use other instructions (AVX2, AVX-512, AMX …) and round in another order.

    What it detects:
        The processor, the instruction set that the framework chose or a variable that limits it differs
        between the two runs, and ops whose inputs and arguments agree bit for bit give other bits.

    Why it happens:
        A sum over eight lanes is added up in another order than one over sixteen or one, and a fused
        multiply-add rounds once instead of twice. Kernels are compiled for several instruction sets and
        chosen when the process starts.

    Evidence required:
        The instruction set (or the variable that limits it) differs between the two environments, and at
        least one origin is of kind *implementation*: op, arguments and inputs agree, the output does not.

    Look-alikes:
        EN001 (versions), EN002 (flags), OR002 (threads). Weights that the program itself initialises differ
        too, because vectorised random kernels draw in another order: the origins are then of kind *state*.

    Example:
        A sum recorded with ``ATEN_CPU_CAPABILITY=default`` differs from the one with the machine's own.

    Remedy:
        Accept it if the verdict is *rounding*; for equal bits limit both sides to one instruction set.

    How it is verified:
        ``whydiff matrix --env ATEN_CPU_CAPABILITY=…`` runs the program again with only this changed. Two
        traces alone cannot tell it from other differences of environment: it stays inconclusive.

    References:
        https://pytorch.org/docs/stable/backends.html#torch.backends.cpu.get_cpu_capability;
        https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
    """

    code = "EN004"
    name = "instruction-set"

    def detect(self, case: Case) -> Iterable[Cause]:
        """One hypothesis for all differences of the instruction set."""
        drawn = all(case.candidate.calls[origin.calls[1]].rng for origin in unexplained(case))
        remedy = Remedy(
            "Draw on both sides under one instruction set, or save the drawn numbers once and load them on both sides."
            if drawn
            else "Accept it if the verdict is rounding; for equal bits give both sides the same instruction set.",
            "ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 python SCRIPT.py",
        )
        return hypothesis(case, self, remedy)

    def example(self) -> tuple[Any, Any]:
        """Two traces whose environments differ in the instruction set, and a sum that differs."""
        return doctored(_program, _CHANGED)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The environments differ likewise, and so does another part of them; or what differs is in the program."""
        return impostors(_program, _CHANGED, {"flags": {"mkldnn": False}})


def _program() -> Any:
    import torch

    x = torch.linspace(-1, 1, 256).reshape(4, 64)
    with torch.no_grad():
        return x.exp().sum(1)


REGISTER = InstructionSet()
