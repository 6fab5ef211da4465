"""Ops rewritten while a program runs, at named sites: the remedies of a range audit, tried."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from whydiff.capturing.adapters.torch.operators import Decomposing, Operator, describe
from whydiff.capturing.adapters.torch.range_alarms import lowest_in_masked_rows
from whydiff.capturing.adapters.torch.scopes import Scopes
from whydiff.errors import UsageError
from whydiff.records import Intervention

REWRITES = ("scale-first", "finite-mask", "two-pass-variance", "larger-constant")
_Key = tuple[str, str, str, int]
_Rewrite = Callable[[Any, Any, Any], Any]


class Rewriter(Decomposing):
    """Carries out rewrites while it is active.

    ``scale-first`` (target: the product, value: [site of the scaling, factor]): the first operand is scaled
    before the product, the later scaling is left out. ``finite-mask`` (target: an op that reads masked rows): minus
    infinity becomes the format's lowest number where a whole row is masked. ``two-pass-variance`` (target: the
    subtraction E[x²] − E[x]², value: [site of the squares, site of their mean]): the variance from the deviations takes
    its place. ``larger-constant`` (target: a sum or clamp, value: a magnitude): the constant becomes this large.

    Attributes:
        done: how many calls were rewritten.
        measured: site → what was measured there (see `TwoPass`).

    Args:
        scopes: tells scope, phase and step.
        interventions: what to rewrite, at every step.

    Raises:
        UsageError: an intervention is no rewrite.
    """

    def __init__(self, scopes: Scopes, interventions: Iterable[Intervention]) -> None:
        super().__init__()
        self.scopes = scopes
        self.done = 0
        self.measured: dict[str, dict[str, float]] = {}
        self._changes: dict[str, _Rewrite] = {}
        self._watched: dict[str, Callable[[Any, Any, Any], None]] = {}
        self._occurrences: dict[_Key, int] = {}
        self._step = 0
        for item in interventions:
            if item.name == "scale-first":
                scaled_at, factor = item.value
                self._changes[_site(item.target)] = _scaled(factor)
                self._changes[_site(scaled_at)] = _unscaled
            elif item.name == "finite-mask":
                self._changes[_site(item.target)] = _finite_rows
            elif item.name == "larger-constant":
                self._changes[_site(item.target)] = _larger(item.value)
            elif item.name == "two-pass-variance":
                squares, means = item.value
                found = self.measured.setdefault(item.target, {})
                self._watch_variance(TwoPass(found), _site(squares), _site(means), _site(item.target))
            else:
                raise UsageError("This is no rewrite.", actual=str(item), expected=", ".join(REWRITES))

    def _watch_variance(self, parts: TwoPass, squares: str, means: str, target: str) -> None:
        self._watched[squares], self._watched[means] = parts.squared, parts.averaged
        self._changes[target] = parts.subtract

    def op(self, func: Any, operator: Operator, args: Any, kwargs: Any) -> Any:
        """What takes the place of an op."""
        phase, scope = self.scopes.phase_and_scope()
        if self.scopes.step != self._step:
            self._occurrences.clear()
            self._step = self.scopes.step
        key = (scope, operator.op, phase, 0)
        number = self._occurrences.get(key, 0)
        self._occurrences[key] = number + 1
        suffix = "" if phase == "forward" else f" [{phase}]"
        site = f"{scope}:{operator.op}#{number}{suffix}"
        watch = self._watched.get(site)
        if watch is not None:
            watch(func, args, kwargs)
        change = self._changes.get(site)
        if change is None:
            return func(*args, **kwargs)
        self.done += 1
        return change(func, args, kwargs)


def _site(text: str) -> str:
    """A site's text without slot and step."""
    head, _, rest = text.partition("#")
    number = rest.split(".")[0].split(" ")[0]
    phase = next((f" [{name}]" for name in ("backward", "update") if f"[{name}]" in rest), "")
    return f"{head}#{number}{phase}"


def _scaled(factor: float) -> _Rewrite:
    def change(func: Any, args: Any, kwargs: Any) -> Any:
        position = 1 if func._schema.name in ("aten::addmm", "aten::baddbmm") else 0
        scaled = list(args)
        scaled[position] = args[position] * factor
        return func(*scaled, **kwargs)

    return change


def _unscaled(func: Any, args: Any, kwargs: Any) -> Any:
    """The scaling without its factor: a number of its own, as before."""
    if describe(func).written_args:
        return args[0]
    return args[0].clone()


def _larger(magnitude: float) -> _Rewrite:
    def change(func: Any, args: Any, kwargs: Any) -> Any:
        def larger(value: Any) -> Any:
            return math.copysign(magnitude, float(value))

        op = describe(func).op
        name = "min" if op.startswith("clamp") else "other"
        given = {k: v for k, v in kwargs.items() if k != "alpha"}
        if name in given:
            return func(*args, **(given | {name: larger(given[name])}))
        return func(args[0], larger(args[1]), *args[2:], **given)

    return change


def _finite_rows(func: Any, args: Any, kwargs: Any) -> Any:
    return func(*(lowest_in_masked_rows(a) if isinstance(a, torch.Tensor) else a for a in args), **kwargs)


class TwoPass:
    """E[x²] − E[x]² rewritten as the mean squared deviation, and both judged against float64.

    Its three ops, in the order in which they run; the two-pass algorithm of Chan, Golub and LeVeque, "Algorithms for
    computing the sample variance", The American Statistician 37(3), 1983.

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
