"""AC001 negated-weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from whydiff.explain.case import Case
from whydiff.explain.causes import CauseRule, StateView, differences
from whydiff.numbers.metrics import values
from whydiff.records import Cause, Evidence, Remedy, Verdict


class NegatedWeights(CauseRule):
    """One side's weights are the other's with the opposite sign.

    What it detects:
        A parameter whose every element is the other side's times minus one.

    Why it happens:
        A conversion script moved a subtraction into the weights on one side only.

    Evidence required:
        Both tensors, element for element; at least one element is not zero.

    Look-alikes:
        ST001 if a single element has another magnitude.

    Example:
        The weight of a linear layer is negated.

    Remedy:
        Negate it back, or take the sign into the formula.

    How it is verified:
        The candidate runs again with the reference's tensor in its place; the outputs must become equal.

    References:
        None.
    """

    code = "AC001"
    name = "negated-weights"
    precedes = ("ST001", "ST002")

    def explain_state(self, view: StateView) -> int | None:
        """How many elements changed their sign; None if not all did."""
        if view.payloads is None or view.reference.spec.shape != view.candidate.spec.shape:
            return None
        ours, theirs = (values(payload.bits, payload.dtype) for payload in view.payloads)
        return int(np.count_nonzero(ours)) or None if np.array_equal(ours, -theirs) else None

    def detect(self, case: Case) -> Iterator[Cause]:
        """One cause per negated tensor."""
        for difference in differences(case, self.code):
            yield self.cause(
                site=difference.name,
                verdict=Verdict.SEMANTIC,
                evidence=(
                    Evidence(
                        f"all {difference.proof} nonzero elements of {difference.name} have the opposite sign",
                        {"elements": difference.proof},
                    ),
                ),
                remedy=Remedy("Negate it on one side."),
                interventions=difference.interventions,
            )

    def example(self) -> tuple[Any, Any]:
        """A linear layer and the same one with its weight negated."""
        import copy

        import torch

        torch.manual_seed(0)
        reference = torch.nn.Linear(8, 4)
        candidate = copy.deepcopy(reference)
        candidate.weight.data.neg_()
        x = torch.randn(2, 8)
        return lambda: reference(x), lambda: candidate(x)

    def impostors(self) -> Iterable[tuple[Any, Any]]:
        """Negated, and one element changed as well: restoring the tensor cures it, and the name would be wrong."""
        import copy

        import torch

        torch.manual_seed(0)
        reference = torch.nn.Linear(8, 4)
        candidate = copy.deepcopy(reference)
        candidate.weight.data.neg_()
        candidate.weight.data[0, 0] += 1
        x = torch.randn(2, 8)
        return [(lambda: reference(x), lambda: candidate(x))]


REGISTER = NegatedWeights()
