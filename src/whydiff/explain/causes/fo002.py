"""FO002 epsilon-differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from whydiff.capturing.adapters import Role, for_framework
from whydiff.explain.causes._entering import entering_epsilons
from whydiff.explain.causes._explained import Array, Finding, Operation, PlaceRule, View, consumers
from whydiff.explain.causes._given import other_number
from whydiff.explain.local_test import formulas
from whydiff.numbers.tolerance import EPSILONS, SAME_FUNCTION, UNIT_ROUNDOFF
from whydiff.records import Evidence, Intervention, Remedy, Verdict


class EpsilonDiffers(PlaceRule):
    """Two normalisations use another epsilon.

    What it detects:
        A normalisation whose epsilon differs, fitted from the values: inside one op (layer norm, RMS norm,
        batch norm), added to a variance before a root, or as the lower limit of a norm that is divided
        by. The epsilon may be a constant in the code that no attribute shows.

    Why it happens:
        Defaults differ: 1e-5 in torch.nn.LayerNorm, 1e-6 in T5 and Llama, 1e-12 in BERT, machine epsilon in
        torch.nn.RMSNorm; a port that writes the norm out takes its own. Where the variance is large the
        results agree, so that tests on random inputs pass.

    Evidence required:
        Both sides' ops are carried out in float64 on the recorded inputs, and the epsilon is solved for
        from the results: (x − mean) w / (y − b) squared, minus the variance, must be one constant on each
        side; a constant that both sides add to non-negative values which a root or a division reads, or
        the limit of a clamp, is read off directly.

    Look-alikes:
        ST006 if a module's attribute or a configuration key has the value. FO003 if the results are in one
        constant ratio. An epsilon outside the root (std + eps) is another formula and fits no constant.

    Example:
        ``layer_norm(x, eps=1e-5)`` against ``layer_norm(x, eps=1e-3)``, both constants in the code.

    Remedy:
        Give both sides the epsilon that the weights were trained with.

    How it is verified:
        By replay: the candidate's op gets the reference's epsilon (``set-argument``), or the reference's
        norm works on the candidate's inputs (``replace-op``); the outputs must become equal bit for bit.

    References:
        Ba et al., Layer Normalization, arXiv:1607.06450; Zhang and Sennrich, arXiv:1910.07467; PyTorch,
        torch.nn.LayerNorm (eps).
    """

    code = "FO002"
    name = "epsilon-differs"
    says = "the candidate's epsilon is {candidate}, the reference's {reference}"
    yields_to = ("IN", "FO004")  # IN001 leaves a number that is an epsilon to it

    def explain(self, view: View) -> Finding | None:
        """The epsilon of each side, if both can be solved for."""
        if view.one_function:
            return None
        if (entering := entering_epsilons(view)) is not None:
            return _finding(
                self.code, "a number that enters and is added before a root", entering, view.give_constants()
            )
        given = self.explain_number(view)
        if given is not None and given.put_in:
            return given
        for how, fit in (
            ("solved for from its results", _in_norm),
            ("added before a root", _added),
            ("the lower limit of a divisor", _limit),
        ):
            found = fit(view)
            if found is None or math.isclose(*found, rel_tol=1e-3):
                continue
            away, put = view.give_number()
            return _finding(self.code, how, found, away or view.replace_op(), put)
        return None

    def explain_number(self, view: View) -> Finding | None:
        """Epsilons, of which one may be too large to be called so."""
        return other_number(view, self.code, ("epsilon", "term"), "epsilon")

    def remedy(self, finding: Finding) -> Remedy:
        """Give both sides one epsilon."""
        return Remedy(
            f"Give both sides the same epsilon: the reference has {finding.facts['reference']}, the candidate "
            f"{finding.facts['candidate']}. The right one is that with which the weights were trained.",
            undoes="either",
        )

    def example(self) -> tuple[Any, Any]:
        """A layer norm with an epsilon that only the code holds."""
        import torch

        torch.manual_seed(0)
        linear = torch.nn.Linear(8, 8)
        x = 0.1 * torch.randn(4, 8)

        def run(eps: float) -> Any:
            return linear(torch.nn.functional.layer_norm(x, (8,), eps=eps))

        return lambda: run(1e-5), lambda: run(1e-3)

    def impostors(self) -> Iterator[tuple[Any, Any]]:
        """Constants before a root or a division that are part of the formula, and keep nothing from zero."""
        import torch

        torch.manual_seed(0)
        x, counts = torch.randn(4, 8), torch.tensor([[1.0], [1.0], [3.0], [5.0]])

        def smooth(c: float) -> Any:
            return torch.sqrt((x * 0.1).square() + c) @ x.mT

        def mean(least: float) -> Any:
            return x / counts.clamp(min=least) @ x.mT

        def kernel(radius: float) -> Any:
            return 1 / (radius + x.square().sum(1)) @ x

        yield (lambda: kernel(1.0)), (lambda: kernel(2.0))
        yield (lambda: smooth(1.0)), (lambda: smooth(0.5))
        yield (lambda: mean(1.5)), (lambda: mean(4.0))


def _finding(
    code: str, how: str, found: tuple[float, float], away: tuple[Intervention, ...], put: tuple[Intervention, ...] = ()
) -> Finding:
    ours, theirs = map(_spoken, found)
    evidence = Evidence(
        f"the epsilon, {how}, is {ours} in the reference and {theirs} in the candidate",
        {"reference": found[0], "candidate": found[1], "how": how},
    )
    facts = {"reference": ours, "candidate": theirs}
    return Finding(code, (ours, theirs), Verdict.SEMANTIC, (evidence,), away, facts, put_in=put)


def _in_norm(view: View) -> tuple[float, float] | None:
    """Both epsilons of a norm, where one side is a single op that says what else is in the formula."""
    for single in view.seen.singles:
        if single is None:
            continue
        operation, places = single
        solved = [
            _solved(operation, side if places is None else side.reshape(-1)[places].reshape(operation.shape))
            for side in view.exact
        ]
        if solved[0] is not None and solved[1] is not None:
            return solved[0], solved[1]
    return None


def _solved(op: Operation, y: Array) -> float | None:
    if y.shape != op.shape or not op.reads:
        return None
    x = op.reads[0]
    if Role.BATCH_NORM in op.roles:
        weight, bias, mean, variance = (op.tensor(name) for name in ("weight", "bias", "mean", "variance"))
        if mean is None or variance is None or x.ndim < 2:
            return None
        shape = (1, -1) + (1,) * (x.ndim - 2)
        weight, bias, mean, variance = (
            default if v is None else v.reshape(shape)
            for v, default in (
                (weight, np.ones(())),
                (bias, np.zeros(())),
                (mean, np.zeros(())),
                (variance, np.ones(())),
            )
        )
    elif formulas.is_norm(op):
        given = op.argument("over")
        axes = tuple(range(x.ndim - len(given), x.ndim))
        centred = "bias" in op.at
        weight = op.tensor("weight")
        bias = op.tensor("bias")
        mean = x.mean(axes, keepdims=True) if centred else np.zeros(())
        variance = np.square(x - mean).mean(axes, keepdims=True)
        weight = np.ones(()) if weight is None else weight
        bias = np.zeros(()) if bias is None else bias
    else:
        return None
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        over = np.broadcast_to((x - mean) * weight, y.shape)
        below = y - bias
        eps = np.square(over / below) - variance
        trust = np.abs(below) * np.ones_like(eps)
        sure = np.isfinite(eps) & (trust > 1e-3 * np.nanmax(np.abs(below)))
    return _constant(eps[sure], np.broadcast_to(variance, y.shape)[sure])


def _constant(eps: Array, variance: Array) -> float | None:
    """One number if all elements give it, within what float32 constants and float64 results allow."""
    if eps.size < 2:
        return None
    value = float(np.median(eps))
    allowed = SAME_FUNCTION * 2 * UNIT_ROUNDOFF["float32"] * abs(value) + 1e-11 * np.maximum(
        np.abs(variance), abs(value)
    )
    if value < -float(np.max(allowed)) or float(np.mean(np.abs(eps - value) > allowed)) > 0.01:
        return None
    return max(value, 0.0)


def _added(view: View) -> tuple[float, float] | None:
    """Both constants that are added to non-negative values before a root."""

    def solve(x: Array, y: Array) -> float | None:
        value = float(np.median(y - x))
        far = float(np.max(np.abs(y - x - value))) > 1e-12 * max(float(np.max(x)), abs(value))
        return None if value < 0 or far else value

    return _on_both(view, solve)


def _limit(view: View) -> tuple[float, float] | None:
    """Both lower limits of a clamp of non-negative values."""

    def solve(x: Array, y: Array) -> float | None:
        value = float(y.min())
        return value if np.array_equal(y, np.maximum(x, value)) and value > float(x.min()) else None

    return _on_both(view, solve)


def _on_both(view: View, solve: Callable[[Array, Array], float | None]) -> tuple[float, float] | None:
    """Both sides' constants, from an op's non-negative input and its results, before a root or a division."""
    if not _before_a_root(view) or view.exact[0].size != view.exact[1].size:
        return None
    for x in view.inputs_like_output():
        if x.size and float(x.min()) >= 0:
            ours, theirs = (solve(x, side.reshape(-1)) for side in view.exact)
            if ours is None or theirs is None:
                continue
            if max(ours, theirs) < float(x.mean()) and min(ours, theirs) < EPSILONS:
                return ours, theirs  # small against what it keeps from zero; else it is a part of the formula
    return None


def _before_a_root(view: View) -> bool:
    """Whether a root or a division reads the candidate's result."""
    call = view.case.candidate.calls[view.origin.calls[1]]
    roles = for_framework(view.case.candidate.framework).roles
    ahead = [call] if view.origin.kind == "region" else []
    return any(Role.ROOT in roles(c.site.op) for c in (*ahead, *consumers(view.case, 1, call, 2)))


def _spoken(value: float) -> str:
    return f"{value:.3g}"


REGISTER = EpsilonDiffers()
