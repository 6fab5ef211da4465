"""EN002: another process-wide flag or variable."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._environment import doctored, hypothesis, impostors
from whydiff.records import Cause, Remedy

_CHANGED = {"flags": {"mkldnn": False}}
"""What the example changes of the environment."""


class FlagDiffers(CauseRule):
    """A process-wide flag or environment variable of the framework differs, and with it the kernels.

    What it detects:
        A switch such as TF32, the float32 matmul precision, deterministic algorithms, oneDNN,
        reduced-precision reductions, an attention backend or a variable that the framework reads differs
        between the two runs, and ops whose inputs and arguments agree bit for bit give other bits.

    Why it happens:
        Flags are set far from the model: in a launcher, a notebook's first cell, a library's import, a
        container image. They choose the kernel, and some of them the precision.

    Evidence required:
        A flag or variable differs between the two environments, and at least one origin is of kind
        *implementation*: op, arguments and inputs agree, the output does not.

    Look-alikes:
        EN001 (versions), EN004 (instruction set), OR002 (threads).

    Example:
        A matrix product recorded with oneDNN off differs from the one with oneDNN on.

    Remedy:
        Set the flag explicitly on both sides, in the program itself.

    How it is verified:
        ``whydiff matrix`` runs the program again with only this variable changed. Two traces alone cannot
        tell it from other differences of environment: it stays inconclusive.

    References:
        https://pytorch.org/docs/stable/notes/numerical_accuracy.html;
        https://pytorch.org/docs/stable/backends.html
    """

    code = "EN002"
    name = "flag-differs"
    says = "a flag or variable of the framework differs, and with it the kernels"

    def detect(self, case: Case) -> Iterable[Cause]:
        """One hypothesis for all flags and variables that differ."""
        remedy = Remedy("Set the flag to the same value on both sides, in the program itself.")
        return hypothesis(case, self, remedy)

    def example(self) -> tuple[Any, Any]:
        """Two traces whose environments differ in oneDNN's switch, and a matrix product that differs."""
        return doctored(_program, _CHANGED)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The environments differ likewise, and so does another part of them; or what differs is in the program."""
        return impostors(_program, _CHANGED, {"versions": {"torch": "2.4.1"}})


def _program() -> Any:
    import torch

    x = torch.linspace(-1, 1, 256).reshape(4, 64)
    with torch.no_grad():
        return x @ x.mT


REGISTER = FlagDiffers()
