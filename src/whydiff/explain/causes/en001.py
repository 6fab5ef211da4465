"""EN001: another version of the framework or of a library below it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule
from whydiff.explain.causes._environment import doctored, hypothesis, impostors
from whydiff.records import Cause, Remedy

_CHANGED = {"versions": {"torch": "2.4.1", "onednn": "3.4.2"}}
"""What the example changes of the environment."""


class VersionDiffers(CauseRule):
    """Another version of the framework (or of its BLAS, oneDNN, cuDNN, compiler) computes other bits.

    What it detects:
        The two runs used other versions of torch or of a library below it, and ops whose inputs and arguments
        agree bit for bit give other bits.

    Why it happens:
        A release may choose another kernel, another vector width, another blocking of a sum or a newer oneDNN
        or MKL. Each is as exact as before and rounds in another order. Rarely a release changes a formula
        or a default; then the difference is not rounding, and the verdict says so.

    Evidence required:
        A version differs between the two environments, and at least one origin is of kind
        *implementation*: op, arguments and inputs agree, the output does not.

    Look-alikes:
        EN004 (another instruction set), OR002 (another number of threads), EN002 (another flag): all look the
        same in the numbers. Weights that were initialised by the program itself, because random numbers
        differ between versions and instruction sets: the origins are then of kind *state*.

    Example:
        A layer norm recorded under another version differs from this one's in the last place.

    Remedy:
        Pin the versions, or accept a difference whose verdict is *rounding*.

    How it is verified:
        ``whydiff matrix`` runs the program once more with nothing changed but the interpreter: confirmed if
        that alone gives the candidate's bits and the candidate without it has the reference's. Two traces
        alone cannot tell it from other differences of environment: it stays inconclusive.

    References:
        https://pytorch.org/docs/stable/notes/randomness.html ("not guaranteed across PyTorch releases")
    """

    code = "EN001"
    name = "version-differs"
    says = "another version of the framework computes other bits"

    def detect(self, case: Case) -> Iterable[Cause]:
        """One hypothesis for all versions that differ."""
        remedy = Remedy("Use the same versions on both sides, or accept the difference if its verdict is rounding.")
        return hypothesis(case, self, remedy)

    def example(self) -> tuple[Any, Any]:
        """Two traces whose environments differ in torch's version, and a layer norm that differs."""
        return doctored(_program, _CHANGED)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """The environments differ likewise, and so does another part of them; or what differs is in the program."""
        return impostors(_program, _CHANGED, {"flags": {"mkldnn": False}})


def _program() -> Any:
    import torch

    x = torch.linspace(-1, 1, 256).reshape(4, 64)
    with torch.no_grad():
        return torch.nn.functional.layer_norm(x, (64,))


REGISTER = VersionDiffers()
