"""Modes that meet ops without bringing the compiler into a process that has none.

PyTorch wraps the handler of a mode so that its compiler leaves it alone, and the wrapper imports the compiler when the
first op is met: seconds, where no program was ever compiled.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode

from whydiff.capturing.adapters.torch.outputs import tensors_in


class Mode(TorchDispatchMode):
    """A mode whose handler is kept from the compiler where there is one, and is called as it is where there is none."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__torch_dispatch__" in vars(cls):
            cls.__torch_dispatch__ = _kept_from_the_compiler(vars(cls)["__torch_dispatch__"])  # type: ignore[method-assign]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper that imports the compiler."""
        return False


def _kept_from_the_compiler(handler: Any) -> Any:
    kept = _disable_dynamo(handler, recursive=True)

    @functools.wraps(handler)
    def meet(*given: Any, **named: Any) -> Any:
        return (kept if "torch._dynamo" in sys.modules else handler)(*given, **named)

    return meet


class Casting(Mode):
    """Sees every op that reads float64 and gives fewer bits; the compiler must stand back.

    Attributes:
        coarsest: the dtype with the largest unit roundoff that was given; empty: none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = ""
        self._unit = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(tensor.dtype is torch.float64 for _, tensor in tensors_in([args, kwargs])):
            for _, tensor in tensors_in(made):
                if tensor.dtype is not torch.float64 and tensor.is_floating_point():
                    self._keep(tensor.dtype)
        return made

    def _keep(self, dtype: torch.dtype) -> None:
        unit = torch.finfo(dtype).eps
        if unit > self._unit:
            self._unit, self.coarsest = unit, str(dtype).removeprefix("torch.")
