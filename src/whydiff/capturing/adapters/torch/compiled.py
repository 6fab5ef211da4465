"""Compiled code (`torch.compile`) while something is captured, and compiled in another way for an experiment.

A dispatch mode makes the compiler give up on a function for good: afterwards the user's program would run
uncompiled, and the plain runs that an instrumented run is compared with as well. While ops are recorded the
compiler is therefore told to stand back; its compiled code stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

WAYS = ("eager", "aot_eager")
"""How compiled code can be carried out instead: by the uncompiled program, or by the traced program without code
generation."""


def can_be_changed() -> bool:
    """Whether the compiler was ever used in this process, and can be told to stand back (PyTorch 2.6)."""
    return "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")


def standing_back() -> Any:
    """A context manager in which compiled functions run uncompiled, without being forgotten."""
    return torch.compiler.set_stance("force_eager") if can_be_changed() else nullcontext()


@contextmanager
def carried_out(way: str) -> Iterator[None]:
    """A block in which compiled functions are carried out in one of `WAYS`."""
    if way == "eager":
        with torch.compiler.set_stance("force_eager"):
            yield
        return
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        yield


@contextmanager
def rounded_in_place() -> Iterator[None]:
    """A block in which compiled functions are compiled anew with every rounding that the program asks for."""
    from torch._inductor import config

    torch.compiler.reset()
    try:
        with config.patch(emulate_precision_casts=True):
            yield
    finally:
        torch.compiler.reset()
