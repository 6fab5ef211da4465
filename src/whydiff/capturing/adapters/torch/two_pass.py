"""E[x²] − E[x]² rewritten as the mean squared deviation in a running program, and both judged against float64.

The two-pass algorithm of Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American
Statistician 37(3), 1983.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.torch.operators import describe


class TwoPass:
    """The three ops of one such variance, in the order in which they run.

    Args:
        measured: filled with ``error_before`` and ``error_after``: the largest absolute error of the program's variance
            and of the rewritten one, divided by the largest variance; both against float64, at worst over calls.
    """

    def __init__(self, measured: dict[str, float]) -> None:
        self.measured = measured
        self._x: torch.Tensor | None = None
        self._how: dict[str, Any] | None = None

    def squared(self, func: Any, args: Any, kwargs: Any) -> None:
        """The squares are about to be computed: this is x."""
        self._x = args[0].detach()

    def averaged(self, func: Any, args: Any, kwargs: Any) -> None:
        """The squares are about to be averaged: over these dimensions."""
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        self._how = {"dim": given.get("dim"), "keepdim": bool(given.get("keepdim", False))}

    def subtract(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The subtraction; carried out as it is if the parts were not met or do not fit."""
        x, how, self._x, self._how = self._x, self._how, None, None
        if x is None or how is None:
            return func(*args, **kwargs)
        in_place = bool(describe(func).written_names)
        with _disable_current_modes(), torch.no_grad():
            wrong = func(args[0].clone(), *args[1:], **kwargs)
            exact = torch.var(x.double(), correction=0, **how)
            if exact.numel() != wrong.numel():
                return func(*args, **kwargs)
            exact = exact.reshape(wrong.shape)
            right = torch.var(x.to(wrong.dtype), correction=0, **how).reshape(wrong.shape)
            self._note("error_before", wrong, exact)
            self._note("error_after", right, exact)
            nothing = torch.zeros_like(right)
            if in_place:
                right = args[0].copy_(right)
        if describe(func).op == "rsub":
            return func(nothing, right)
        return func(right, nothing)  # the op itself, so that later sites keep their numbers

    def _note(self, name: str, value: torch.Tensor, exact: torch.Tensor) -> None:
        error = float((value.double() - exact).abs().max() / exact.abs().max()) if exact.numel() else 0.0
        self.measured[name] = max(self.measured.get(name, 0.0), error)
