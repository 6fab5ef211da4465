"""Casts to fewer bits that a program makes by itself, seen in a run in float64."""

from __future__ import annotations

from typing import Any

import torch

from whydiff.capturing.adapters.torch.modes import Mode
from whydiff.capturing.adapters.torch.outputs import tensors_in


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
