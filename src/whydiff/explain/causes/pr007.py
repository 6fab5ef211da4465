"""PR007 stored-or-computed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from whydiff.explain.case import Case
from whydiff.explain.causes._explained import Finding, PlaceRule, View
from whydiff.explain.causes._stored import of_products, of_values
from whydiff.explain.implied import Implied
from whydiff.explain.sides import SIDES
from whydiff.numbers.tolerance import UNIT_ROUNDOFF
from whydiff.records import Cause, Evidence, Remedy, Verdict


class StoredOrComputed(PlaceRule):
    """One side stores a product of weights, rounded; the other side computes it from stored factors, rounded too.

    What it detects:
        A weight that one side reads from its state and the other computes from state (a weight norm that was removed,
        a scale that was folded in), or a product with one stored matrix where the other side has several (a merged
        adapter), where the two agree to within the rounding of the numbers that are stored.

    Why it happens:
        Weights are folded once, in some precision, and stored in the model's dtype. The folded weight and the factors
        were each rounded when they were stored, so that neither side is the other's rounding.

    Evidence required:
        The computed (or, for products, the implied) weight in float64; every element of the stored one lies within half
        a unit in the last place of it, plus what half a unit of every stored factor moves it by.

    Look-alikes:
        FO007 and FO008 if an element lies farther away: a wrong factor, a norm over another axis. ST003 if a tensor of
        one name was rounded.

    Example:
        A weight norm against the weight that was computed from it and stored in bfloat16.

    Remedy:
        Nothing to mend; fold in float32 and store the result once where both must agree.

    How it is verified:
        The stored weight cannot be told from the computed one beyond rounding; that the difference starts there is
        shown by replay (``replace-op``): it is located.

    References:
        Hu et al., LoRA, arXiv:2106.09685, section 4.1 (merging); Salimans and Kingma, Weight Normalization,
        arXiv:1602.07868; huggingface/transformers issues 35124 and 39793.
    """

    code = "PR007"
    name = "stored-or-computed"
    says = "one side stores rounded what the other computes"
    precedes = ("PR002", "FO007", "FO008")

    def explain(self, view: View) -> Finding | None:
        """Whether the rounding of what is stored explains the difference."""
        if view.origin.kind != "region":
            return None
        return self._found(view, of_values(view)) or self._found(view, of_products(view))

    def explain_joint(self, view: View) -> Finding | None:
        """The same for several origins that belong together."""
        return self._found(view, of_products(view))

    def _found(self, view: View, found: tuple[int, Implied] | None) -> Finding | None:
        if found is None or not found[1].is_rounding:
            return None
        side, seen = found
        name, other = SIDES[side], SIDES[1 - side]
        narrow = UNIT_ROUNDOFF[seen.dtype] > UNIT_ROUNDOFF["float32"]
        evidence = Evidence(
            f"the {name} stores in {seen.dtype} what the {other} computes: all {seen.elements} elements lie within "
            f"{seen.worst:.2f} of what half a unit in the last place of every stored number explains",
            {"side": name, "dtype": seen.dtype, "elements": seen.elements, "worst": seen.worst},
        )
        return Finding(
            self.code,
            (name, seen.dtype),
            Verdict.PRECISION if narrow else Verdict.ROUNDING,
            (evidence,),
            view.replace_op(),
            {"side": name, "dtype": seen.dtype},
        )

    def remedy(self, finding: Finding) -> Remedy:
        """Nothing is wrong with either."""
        return Remedy(
            f"Nothing is wrong: the {finding.facts['side']} stores in {finding.facts['dtype']} what the other side computes, "
            "and both were rounded. Where both must agree, compute it in float32 and store it once for both."
        )

    def example(self) -> tuple[Any, Any]:
        """A weight norm in bfloat16, and its weight, made in float32 and stored in bfloat16."""
        return _normed(), _normed(stored=1.0)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """A stored weight that is 2 % too large, one norm for the whole matrix, a merge with another factor."""
        yield _normed(), _normed(stored=1.02)
        yield _normed(), _normed(stored=1.0, dim=None)
        yield _adapted(), _adapted(merged=1.1)


def of_program(case: Case, evidence: Evidence) -> Cause | None:
    """The cause where only the whole outputs show it: they agree in float64 to within the rounding of what is stored.

    Args:
        case: the pair of runs, of which one carries out steps that the other lacks; else nothing is said.
        evidence: the measurement.
    """
    more = [len(unpaired) for unpaired in (case.alignment.unpaired_reference, case.alignment.unpaired_candidate)]
    if min(more) or not max(more) or not case.localization.origins:
        return None
    side = int(more[0] > 0)  # the side that stores
    stored = case.lone_leaves()[side] or [pair[side] for pair in case.differing_leaves if pair[side].is_state]
    dtypes = [leaf.spec.dtype for leaf in stored if leaf.spec.dtype in UNIT_ROUNDOFF]
    if not dtypes:
        return None
    dtype = max(dtypes, key=UNIT_ROUNDOFF.__getitem__)
    narrow = UNIT_ROUNDOFF[dtype] > UNIT_ROUNDOFF["float32"]
    finding = Finding(
        REGISTER.code,
        (SIDES[side], dtype),
        Verdict.PRECISION if narrow else Verdict.ROUNDING,
        (evidence,),
        (),
        {"side": SIDES[side], "dtype": dtype},
    )
    return REGISTER.cause(
        site=str(case.localization.origins[0].site.at("")),
        verdict=finding.verdict,
        evidence=finding.evidence,
        remedy=REGISTER.remedy(finding),
        reason="the outputs show it as a whole; what is stored was not held against what is computed, tensor by tensor",
        says=REGISTER.says,
    )


def _normed(stored: float = 0.0, dim: int | None = 0) -> Any:
    import torch
    from torch.nn.utils import parametrize
    from torch.nn.utils.parametrizations import weight_norm

    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(16, 8, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(8, 16, generator=generator))
    weight_norm(linear)
    with torch.no_grad():
        linear.parametrizations.weight.original0.mul_(1.7)  # type: ignore[union-attr,operator]
    if stored:
        parametrize.remove_parametrizations(linear, "weight")
        with torch.no_grad():
            rows = linear.weight.norm(dim=1, keepdim=True)
            linear.weight.mul_(stored if dim == 0 else rows / linear.weight.norm())
    linear = linear.bfloat16().eval().requires_grad_(False)
    x = torch.randn(4, 16, generator=generator).bfloat16()
    return lambda: torch.tanh(linear(x))


def _adapted(merged: float = 0.0) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    weight, down, up, x = (
        torch.randn(*shape, generator=generator) / 4 for shape in ((8, 16), (2, 16), (8, 2), (4, 16))
    )
    if merged:
        whole = weight + merged * 2 * up @ down
        return lambda: torch.tanh(torch.nn.functional.linear(x, whole))
    linear = torch.nn.functional.linear
    return lambda: torch.tanh(linear(x, weight) + 2 * linear(linear(x, down), up))


REGISTER = StoredOrComputed()
